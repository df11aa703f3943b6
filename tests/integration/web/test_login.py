"""Login page: errors, redirects to local paths only, and throttling of failed logins."""

import re
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lxml import html
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.settings import get_settings, use_settings
from accession.db.models import AuditEntry
from accession.tasks.broker import broker_unavailable
from accession.web.login import local_path
from accession.web.sessions import COOKIE
from accession.web.throttle import MAX_ATTEMPTS, register_attempt, reset_attempts
from tests.fixtures.factories import PASSWORD
from tests.fixtures.web_client import BASE_URL, Browser, OpenBrowser

ERROR = "Wrong name or password."


def alerts(page: str) -> list[str]:
    return [str(node.text_content()) for node in html.document_fromstring(page).xpath("//*[@role='alert']")]


# Page and errors


def test_login_form_has_labels_and_autocomplete(browser: Browser, ann: str) -> None:
    page = browser.get("/login").text
    assert alerts(page) == []
    form = html.document_fromstring(page).forms[0]
    visible = [field for field in form.inputs if field.get("type") != "hidden"]
    labels = {label.get("for"): label.text for label in form.iter("label")}
    assert [labels[field.get("id")] for field in visible] == ["Name", "Password"]
    assert [field.get("autocomplete") for field in visible] == ["username", "current-password"]
    assert (form.method, form.action, form.fields["next"]) == ("POST", "/login", "/")


def test_login_page_satisfies_content_security_policy(browser: Browser, ann: str) -> None:
    page = browser.get("/login").text
    assert not re.search(r"<script(?! src=\"/static/)|<style|style=|\son\w+=|https?:", page)


def test_wrong_name_and_wrong_password_get_same_response(browser: Browser, ann: str) -> None:
    responses = [
        browser.log_in("ann", "a wrong password"),
        browser.log_in("bob", PASSWORD),
        browser.log_in("", ""),
    ]
    assert {response.status_code for response in responses} == {401}
    assert {tuple(alerts(response.text)) for response in responses} == {(ERROR,)}
    assert not any("set-cookie" in response.headers for response in responses)
    assert browser.get("/who").status_code == 303


def test_failed_login_keeps_escaped_name_but_not_password(browser: Browser, ann: str) -> None:
    response = browser.log_in('"><script>', "a wrong password", next="/who?a=1&b=2")
    assert 'value="&#34;&gt;&lt;script&gt;"' in response.text
    assert 'value="/who?a=1&amp;b=2"' in response.text
    assert "a wrong password" not in response.text


@pytest.mark.parametrize("content", [b"name", b"\xff\xfe=\x00", b"name=ann%00&password=x", b"a=b&" * 50])
def test_malformed_login_form_is_failed_login(browser: Browser, ann: str, content: bytes) -> None:
    response = browser.post("/login", content=content)
    assert (response.status_code, alerts(response.text)) == (401, [ERROR])


def test_oversized_login_form_is_not_read_to_its_end(browser: Browser, ann: str) -> None:
    chunks_read: list[int] = []

    async def endless_body() -> AsyncIterator[bytes]:
        while True:
            chunks_read.append(1)
            yield b"x" * 5_000

    assert browser.post("/login", content=endless_body()).status_code == 413
    assert len(chunks_read) <= 4


# Redirect target

FOREIGN_PATHS = [
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "///evil.example",
    "http://evil.example",
    "https:evil.example",
    "javascript:alert(1)",
    "evil.example",
    "@evil.example",
    "?//evil.example",
    "",
]


@pytest.mark.parametrize("path", FOREIGN_PATHS)
def test_login_page_never_redirects_to_foreign_site(browser: Browser, path: str) -> None:
    response = browser.get("/login", params={"next": path})
    assert response.headers["location"] == "/"


def test_login_never_redirects_to_foreign_site(browser: Browser, ann: str) -> None:
    response = browser.log_in(next="//evil.example")
    assert (response.status_code, response.headers["location"]) == (303, "/")


@pytest.mark.parametrize(
    "path", ["/", "/who", "/runs?state=failed&page=2", "/titles/a%20b", "/a//b", "/who#top"]
)
def test_login_page_redirects_to_requested_local_path(browser: Browser, path: str) -> None:
    assert browser.get("/login", params={"next": path}).headers["location"] == path


def resolved_origin(path: str) -> tuple[str, str]:
    """Return scheme and host to which browsers resolve the path, by the URL standard."""
    url = re.sub("[\t\n\r]", "", path.strip("".join(map(chr, range(33))))).replace("\\", "/")
    # Browsers ignore additional slashes before a host.
    url = re.sub("^//+", "//", url)
    parts = urlsplit(urljoin(f"{BASE_URL}/login", url))
    return parts.scheme, parts.netloc


PATHS = st.text(
    st.sampled_from("/\\.:@?#%&;=\t\n\r \x00\x0b\x7f\x85 [evilhtps")
    | st.characters(exclude_categories=["Cs"]),
    max_size=20,
)


@given(PATHS | PATHS.map(lambda rest: f"/{rest}") | PATHS.map(lambda rest: f"//{rest}"))
@hypothesis_settings(max_examples=500, deadline=None)
def test_any_path_is_local_or_replaced_by_root(path: str) -> None:
    result = local_path(path)
    assert result in (path, "/")
    assert result.startswith("/")
    assert resolved_origin(result) == ("http", "127.0.0.1:8642")


@given(PATHS.map(lambda rest: f"/{rest}"))
@hypothesis_settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_path_in_login_url_redirects_to_local_site(browser: Browser, path: str) -> None:
    response = browser.get("/login", params={"next": path})
    assert response.status_code == 303
    assert resolved_origin(response.headers["location"]) == ("http", "127.0.0.1:8642")


# Throttling


def fail_logins(browser: Browser, name: str = "ann", times: int = MAX_ATTEMPTS) -> None:
    """Register failed attempts, as logins with a wrong password do."""
    for _ in range(times):
        assert register_attempt(name, browser.address) == 0


def is_throttled(browser: Browser, name: str = "ann") -> bool:
    response = browser.log_in(name)
    assert response.status_code in (303, 429)
    return response.status_code == 429


def test_correct_password_after_five_failures_is_rejected(browser: Browser, ann: str) -> None:
    for _ in range(MAX_ATTEMPTS):
        assert browser.log_in(password="a wrong password").status_code == 401
    response = browser.log_in()
    assert response.status_code == 429
    assert 0 < int(response.headers["retry-after"]) <= 900
    (error,) = alerts(response.text)
    assert re.fullmatch(r"Too many failed logins: try again in \d+ min\.", error)
    assert COOKIE not in browser.cookies


def test_throttled_name_is_rejected_from_every_address(open_browser: OpenBrowser, ann: str, vic: str) -> None:
    fail_logins(open_browser(address="10.0.0.1"))
    other = open_browser(address="10.0.0.2")
    assert is_throttled(other)
    assert not is_throttled(other, "vic")


def test_throttled_address_is_rejected_with_every_name(open_browser: OpenBrowser, ann: str) -> None:
    browser = open_browser(address="10.0.0.1")
    for number in range(MAX_ATTEMPTS):
        fail_logins(browser, f"guess{number}", times=1)
    assert is_throttled(browser)
    assert not is_throttled(open_browser(address="10.0.0.2"))


def test_new_password_lifts_the_lock(open_browser: OpenBrowser, ann: str, ada: str) -> None:
    browser, administrator = open_browser(address="10.0.0.1"), open_browser(address="10.0.0.2")
    administrator.log_in("ada")
    fail_logins(browser)
    assert is_throttled(browser)

    administrator.post(f"/users/{user_id(administrator, 'ann')}/password", data={"password": PASSWORD})

    assert not is_throttled(browser)


def test_administrator_unlocks_a_user(
    open_browser: OpenBrowser, ann: str, ada: str, session: Session
) -> None:
    browser, administrator = open_browser(address="10.0.0.1"), open_browser(address="10.0.0.2")
    administrator.log_in("ada")
    page = f"/users/{user_id(administrator, 'ann')}"
    assert "Allow logins" not in administrator.get(page).text
    fail_logins(browser)
    assert "Allow logins" in administrator.get(page).text

    assert administrator.post(f"{page}/unlock").status_code == 303

    assert not is_throttled(browser)
    fail_logins(browser, times=MAX_ATTEMPTS - 1)
    assert administrator.post(f"/api/v1{page}/unlock").status_code == 204
    assert not is_throttled(browser)
    actions = session.scalars(select(AuditEntry.action).where(AuditEntry.subject == "ann")).all()
    assert actions.count("user.unlock") == 2


def user_id(administrator: Browser, name: str) -> int:
    """Return the id of a user."""
    users = administrator.get("/api/v1/users").json()
    return next(int(user["id"]) for user in users if user["name"] == name)


@pytest.mark.parametrize(
    ("address", "same"), [("2001:db8:1:2:ffff::9", True), ("2001:db8:1:3::1", False), ("10.0.0.1", False)]
)
def test_ipv6_addresses_of_one_64_network_share_a_count(redis: Redis, address: str, same: bool) -> None:
    for number in range(MAX_ATTEMPTS):
        assert register_attempt(f"guess{number}", "2001:db8:1:2::1") == 0
    assert (register_attempt("another", address) > 0) is same


def test_throttling_ends_with_the_window(browser: Browser, redis: Redis, ann: str) -> None:
    fail_logins(browser)
    assert is_throttled(browser)
    keys = [key for key in redis.scan_iter("accession:logins:*") if not key.endswith(b":addresses")]
    assert len(keys) == 2
    for key in keys:
        assert 0 < redis.ttl(key) <= 900
        # The first failure started the window, and later attempts must not extend it.
        redis.expire(key, 600)
    assert is_throttled(browser)
    assert all(redis.ttl(key) <= 600 for key in keys)
    for key in keys:
        redis.expire(key, 0)
    assert not is_throttled(browser)


def test_successful_login_resets_the_count_of_the_name(browser: Browser, ann: str) -> None:
    fail_logins(browser, times=MAX_ATTEMPTS - 1)
    assert not is_throttled(browser)
    fail_logins(browser, times=1)
    assert is_throttled(browser)


def test_successful_login_keeps_the_count_of_the_address(
    open_browser: OpenBrowser, ann: str, vic: str
) -> None:
    """Otherwise whoever knows one password could guess other users' without limit."""
    browser = open_browser(address="10.0.0.1")
    fail_logins(browser, "vic", times=MAX_ATTEMPTS - 1)
    assert not is_throttled(browser)
    fail_logins(browser, "vic", times=1)
    assert is_throttled(browser)


def test_attempt_is_counted_before_password_is_checked(redis: Redis) -> None:
    throttled = [register_attempt("ann", f"10.0.0.{number}") > 0 for number in range(7)]
    assert throttled == [False] * 5 + [True] * 2


def test_reset_after_end_of_window_leaves_no_count(redis: Redis) -> None:
    reset_attempts("ann", "10.0.0.1")
    assert list(redis.scan_iter("accession:logins:*")) == []


def test_throttling_does_not_end_existing_sessions(open_browser: OpenBrowser, ann: str) -> None:
    logged_in = open_browser(address="10.0.0.1")
    logged_in.log_in()
    fail_logins(open_browser(address="10.0.0.2"))
    assert logged_in.get("/who").json()["name"] == "ann"


def test_login_without_broker_gets_status_503(browser: Browser, ann: str, no_broker: None) -> None:
    response = browser.log_in()
    assert (response.status_code, response.headers["retry-after"]) == (503, "10")
    assert alerts(response.text) == [broker_unavailable()]


@pytest.fixture
def no_broker(browser: Browser) -> Iterator[None]:
    """Let this process use a broker that does not exist."""
    before = get_settings()
    use_settings(before.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")}))
    yield
    use_settings(before)
