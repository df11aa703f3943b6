"""Fixtures of these tests."""

from tests.fixtures.api_schema import populated_app
from tests.fixtures.internet import internet
from tests.fixtures.web_client import ada, ann, browser, open_browser, redis, vic
from tests.fixtures.web_server import client

__all__ = ["ada", "ann", "browser", "client", "internet", "open_browser", "populated_app", "redis", "vic"]
