"""Fixtures of these tests."""

from tests.fixtures.sandbox import catalogue, http, moody, vendor

__all__ = ["catalogue", "http", "moody", "vendor"]
