"""What these tests start from."""

from tests.fixtures.commands import run, tasks

__all__ = ["run", "tasks"]
