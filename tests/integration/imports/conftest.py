"""Fixtures of these tests."""

from tests.fixtures.importers import event_importer, importer, own, updater

__all__ = ["event_importer", "importer", "own", "updater"]
