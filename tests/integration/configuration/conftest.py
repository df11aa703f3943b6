"""Fixtures of these tests."""

from tests.fixtures.broker import app, broker
from tests.fixtures.commands import celery_app

__all__ = ["app", "broker", "celery_app"]
