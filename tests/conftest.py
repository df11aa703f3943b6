"""Fixtures of all tests."""

from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test

from tests.fixtures.databases import home, next_revision, scratch
from tests.fixtures.passwords import cheap_password_hashing
from tests.fixtures.servers import (
    _clear_environment_settings,
    collection,
    database,
    queues,
    servers,
    session,
    vendor,
)

_TIERS = ["e2e", "chaos", "integration", "unit"]

__all__ = [
    "_clear_environment_settings",
    "cheap_password_hashing",
    "collection",
    "database",
    "home",
    "next_revision",
    "queues",
    "scratch",
    "servers",
    "session",
    "vendor",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier, and start the slow tiers, so that no slow test is left at the end.

    Measuring coverage nearly doubles a test's processor time. It is not measured in tests of whole
    installations, whose other processes it cannot see, nor in property-based tests, which run the same lines
    many times.
    """
    for item in items:
        item.add_marker(_tier(item))
        if _tier(item) in ("e2e", "chaos") or is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("no_cover")
    items.sort(key=lambda item: _TIERS.index(_tier(item)))


def _tier(item: pytest.Item) -> str:
    """Return the folder below tests/ that holds the test."""
    return item.path.relative_to(Path(__file__).parent).parts[0]
