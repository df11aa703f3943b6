"""Fixtures for tests of the vendor client."""

from tests.fixtures.bibliotheca import http_pool

__all__ = ["http_pool"]
