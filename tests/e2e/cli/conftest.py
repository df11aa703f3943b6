"""Fixtures of these tests."""

from tests.fixtures.commands import broker, home, run, tasks

__all__ = ["broker", "home", "run", "tasks"]
