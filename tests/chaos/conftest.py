"""What these tests start from."""

from tests.cli.conftest import run, tasks

__all__ = ["run", "tasks"]
