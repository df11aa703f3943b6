"""Fixtures of these tests."""

from tests.fixtures.databases import home, scratch

__all__ = ["home", "scratch"]
