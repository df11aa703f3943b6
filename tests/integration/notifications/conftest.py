"""Fixtures of these tests."""

from tests.fixtures.notifications import mail_server, webhook

__all__ = ["mail_server", "webhook"]
