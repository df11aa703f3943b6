"""Fixtures of the tests of tasks."""

from tests.fixtures.broker import app, broker
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
    "days_one_by_one",
    "four_concurrent_requests",
    "run_starter",
    "vendor",
    "worker",
]
