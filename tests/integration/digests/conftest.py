"""Fixtures of these tests."""

from tests.fixtures.digests import smtp

__all__ = ["smtp"]
