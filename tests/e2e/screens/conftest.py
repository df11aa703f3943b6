"""Fixtures of these tests."""

from tests.fixtures.dashboard import (
    chromium,
    dashboard_url,
    installation,
    open_dashboard,
    stored_collection,
)

__all__ = ["chromium", "dashboard_url", "installation", "open_dashboard", "stored_collection"]
