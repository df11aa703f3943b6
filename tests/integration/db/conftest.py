"""Fixtures of the tests of the database, some of whose findings commands and pages show."""

from tests.fixtures.commands import celery_app, cli
from tests.fixtures.web_client import browser, open_browser, redis
from tests.fixtures.web_server import client

__all__ = ["browser", "celery_app", "cli", "client", "open_browser", "redis"]
