"""Fixtures of all tests."""

import gc
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test
from hypothesis import settings as hypothesis_settings

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

# No test may depend on how fast the machine is: an example may take as long as it likes.
hypothesis_settings.register_profile("any_speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("any_speed")

_TIERS = ["cluster", "servers", "packages", "acceptance", "e2e", "chaos", "integration", "unit"]
# Simulations of months and years, which run the same lines thousands of times.
_SIMULATIONS = {"test_activity.py", "test_empty_bodies.py", "test_request_counts.py", "test_simulated_day.py"}

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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, and hide from it what is collected: that lives to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier, and start the slow tiers, so that no slow test is left at the end.

    Measuring coverage nearly doubles a test's processor time. It is not measured in tests of whole
    installations, whose other processes it cannot see, nor in simulations and property-based tests, which run
    the same lines many times.
    """
    for item in items:
        item.add_marker(_tier(item))
        is_repetitive = item.path.name in _SIMULATIONS or is_hypothesis_test(getattr(item, "obj", None))
        if _tier(item) not in ("integration", "unit") or is_repetitive:
            item.add_marker("no_cover")
    items.sort(key=lambda item: _TIERS.index(_tier(item)))


def _tier(item: pytest.Item) -> str:
    """Return the folder below tests/ that holds the test."""
    return item.path.relative_to(Path(__file__).parent).parts[0]
