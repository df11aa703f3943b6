"""Fixtures of the tests of tasks."""

from tests.fixtures.broker import app, broker
from tests.fixtures.commands import celery_app, cli
from tests.fixtures.workers import (
    _module_worker,
    days_one_by_one,
    four_concurrent_requests,
    run_starter,
    vendor,
    worker,
)

__all__ = [
    "_module_worker",
    "app",
    "broker",
    "celery_app",
    "cli",
    "days_one_by_one",
    "four_concurrent_requests",
    "run_starter",
    "vendor",
    "worker",
]
