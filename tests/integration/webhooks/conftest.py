"""Fixtures of these tests."""

from tests.fixtures.webhooks import receiver

__all__ = ["receiver"]
