"""Fixtures of these tests."""

from tests.fixtures.dashboard import browser, served, stock, visit

__all__ = ["browser", "served", "stock", "visit"]
