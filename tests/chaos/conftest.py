"""Fixtures of the chaos tests."""

from tests.fixtures.commands import celery_app, cli

__all__ = ["celery_app", "cli"]
