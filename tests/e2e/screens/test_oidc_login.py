"""Login at Canaille, a real OpenID Connect provider, as a person does it in a browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.auth.users import user_views
from accession.core.settings import get_settings, use_settings
from tests.fixtures.canaille import (
    CLIENT_ID,
    CLIENT_SECRET,
    MEMBER,
    PASSWORD,
    STRANGER,
    running_canaille,
)
from tests.fixtures.dashboard import OpenDashboard

BUTTON = "Log in with single sign-on"


@pytest.fixture
def provider(dashboard_url: str) -> Iterator[str]:
    """Run a provider with a person in a group and one without, and return its issuer.

    Each test has its own: Canaille's backend in memory counts the consent of one person for all others.
    """
    if find_spec("canaille") is None:
        pytest.skip("Canaille has no wheels for this version of Python")
    with running_canaille(dashboard_url) as issuer, provider_settings(issuer):
        yield issuer


@contextmanager
def provider_settings(issuer: str) -> Iterator[None]:
    """Let the dashboard use this provider."""
    before = get_settings()
    values = {
        "oidc_issuer": issuer,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": SecretStr(CLIENT_SECRET),
        "oidc_scopes": "openid profile email groups",
        "oidc_group_roles": {"library-operators": "operator"},
    }
    use_settings(before.model_copy(update=values))
    yield
    use_settings(before)


def log_in_at_provider(page: Page, name: str) -> None:
    """Go from the login page to the provider, and log in there."""
    page.get_by_role("link", name=BUTTON).click()
    page.get_by_label("Login").fill(name)
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("textbox", name="Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def test_person_logs_in_and_out_at_provider(
    session: Session, open_dashboard: OpenDashboard, dashboard_url: str, provider: str
) -> None:
    page = open_dashboard(dashboard_url).open("/titles?availability=available")
    log_in_at_provider(page, MEMBER)
    page.get_by_role("button", name="Accept").click()

    expect(page).to_have_url(f"{dashboard_url}/titles?availability=available")
    page.get_by_role("button", name=f"Log out {MEMBER}").click()

    expect(page).to_have_url(f"{dashboard_url}/login")
    assert [(user.name, user.role, user.issuer) for user in user_views(session)] == [
        (MEMBER, "operator", provider)
    ]
    page.get_by_role("link", name=BUTTON).click()
    expect(page.get_by_label("Login")).to_be_visible()


def test_person_who_cancels_sees_why_on_login_page(
    database: None, open_dashboard: OpenDashboard, dashboard_url: str, provider: str
) -> None:
    dashboard = open_dashboard(dashboard_url)
    dashboard.expected_status = "403"
    page = dashboard.open("/")
    log_in_at_provider(page, STRANGER)
    page.get_by_role("button", name="Deny").click()

    expect(page.get_by_role("alert")).to_contain_text("The login was cancelled")
    expect(page.get_by_role("link", name=BUTTON)).to_be_visible()


def test_person_without_group_sees_why_on_login_page(
    session: Session, open_dashboard: OpenDashboard, dashboard_url: str, provider: str
) -> None:
    dashboard = open_dashboard(dashboard_url)
    dashboard.expected_status = "403"
    page = dashboard.open("/")
    log_in_at_provider(page, STRANGER)
    page.get_by_role("button", name="Accept").click()

    expect(page.get_by_role("alert")).to_contain_text(f'"{STRANGER}" is in no group that may use Accession')
    assert user_views(session) == []


@pytest.mark.parametrize("is_required", [False, True], ids=["beside passwords", "instead of passwords"])
def test_login_page_with_provider_is_accessible(
    database: None, open_dashboard: OpenDashboard, dashboard_url: str, is_required: bool
) -> None:
    with provider_settings("https://login.library.example"):
        use_settings(get_settings().model_copy(update={"oidc_required": is_required}))
        dashboard = open_dashboard(dashboard_url)
        page = dashboard.open("/login")

        dashboard.assert_accessible()
        dashboard.switch_to_dark_theme()
        dashboard.assert_accessible()
        if is_required:
            page.get_by_text("Log in with a password").click()
        expect(page.get_by_label("Password")).to_be_visible()
