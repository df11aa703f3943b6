"""Fixtures of these tests."""

from tests.fixtures.web_client import ann, redis

__all__ = ["ann", "redis"]
