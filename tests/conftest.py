"""Fixtures of all tests."""

from pathlib import Path

import pytest

from tests.fixtures.databases import home, next_revision, scratch
from tests.fixtures.passwords import cheap_password_hashing
from tests.fixtures.servers import (
    _clear_environment_settings,
    collection,
    database,
    pytest_collection_modifyitems,
    queues,
    servers,
    session,
    vendor,
)

__all__ = [
    "_clear_environment_settings",
    "cheap_password_hashing",
    "collection",
    "database",
    "home",
    "next_revision",
    "pytest_collection_modifyitems",
    "queues",
    "scratch",
    "servers",
    "session",
    "vendor",
]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test with its tier: the folder below tests/ that holds it."""
    item.add_marker(item.path.relative_to(Path(__file__).parent).parts[0])
