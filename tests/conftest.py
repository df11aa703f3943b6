"""Fixtures of these tests."""

from tests.fixtures.servers import (
    _no_settings_of_the_machine,
    collection,
    database,
    pytest_collection_modifyitems,
    queues,
    servers,
    session,
    vendor,
)

__all__ = [
    "_no_settings_of_the_machine",
    "collection",
    "database",
    "pytest_collection_modifyitems",
    "queues",
    "servers",
    "session",
    "vendor",
]
