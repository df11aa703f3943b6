"""Fixtures of these tests."""

from tests.fixtures.sandbox import catalogue, faulty_vendor, http, vendor

__all__ = ["catalogue", "faulty_vendor", "http", "vendor"]
