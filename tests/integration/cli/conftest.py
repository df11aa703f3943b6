"""Fixtures of the tests of the command line."""

from tests.fixtures.commands import (
    broker,
    celery_app,
    cli,
    home,
    unmigrated_database,
    without_worker_wait,
)

__all__ = ["broker", "celery_app", "cli", "home", "unmigrated_database", "without_worker_wait"]
