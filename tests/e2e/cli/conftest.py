"""Fixtures of the tests of the command line."""

from tests.fixtures.commands import (
    broker,
    celery_app,
    cli,
    home,
    unmigrated_database,
    without_worker_wait,
)
from tests.fixtures.databases import next_revision
from tests.fixtures.homes import populated_database

__all__ = [
    "broker",
    "celery_app",
    "cli",
    "home",
    "next_revision",
    "populated_database",
    "unmigrated_database",
    "without_worker_wait",
]
