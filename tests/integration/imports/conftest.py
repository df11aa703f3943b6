"""Fixtures of the tests of import steps."""

from tests.fixtures.importers import event_importer, importer, isolated_database, updater

__all__ = ["event_importer", "importer", "isolated_database", "updater"]
