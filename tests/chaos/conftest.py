"""Fixtures of the chaos tests."""

from tests.fixtures.broker import app, broker
from tests.fixtures.commands import celery_app, cli

__all__ = ["app", "broker", "celery_app", "cli"]
