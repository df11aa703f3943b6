"""Fixtures of the tests with servers of the system."""

from tests.fixtures.commands import broker

__all__ = ["broker"]
