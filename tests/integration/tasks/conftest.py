"""Fixtures of these tests."""

from tests.fixtures.workers import (
    _module_worker,
    app,
    broker,
    chains,
    four_at_once,
    vendor,
    worker,
)

__all__ = [
    "_module_worker",
    "app",
    "broker",
    "chains",
    "four_at_once",
    "vendor",
    "worker",
]
