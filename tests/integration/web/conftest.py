"""Fixtures of these tests."""

from tests.fixtures.web_client import ann, browser, browser_on, redis, vic

__all__ = ["ann", "browser", "browser_on", "redis", "vic"]
