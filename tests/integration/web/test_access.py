"""Access control: local mode without users, sessions, tokens, feed tokens, and cross-site requests."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.keys import KEY_FILE
from accession.auth.roles import FeedKind, UserRole
from accession.auth.tokens import revoke_token
from accession.auth.users import remove_user, set_password, set_role
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.loopback import is_loopback
from accession.core.settings import get_settings, use_settings
from accession.db.engine import engine
from accession.db.models import ApiToken, Collection
from accession.web.server import require_user_unless_loopback
from accession.web.sessions import COOKIE, MAX_AGE
from tests.fixtures.factories import NOON
from tests.fixtures.servers import close_connections
from tests.fixtures.web_client import (
    BASE_URL,
    Browser,
    OpenBrowser,
    bearer,
    make_feed_token,
    make_token,
    make_user,
)

LOCAL = {"name": "local", "role": "administrator", "by": "local"}
ANN = {"name": "ann", "role": "operator", "by": "session"}
CHANGING_METHODS = ("POST", "PUT", "PATCH", "DELETE")


# Local mode: no user exists


def test_local_caller_without_users_can_do_everything(browser: Browser) -> None:
    assert browser.get("/who").json() == LOCAL
    assert browser.post("/who").json() == {"changed_by": "local"}
    assert browser.post("/api/v1/who").json() == {"changed_by": "local"}


def test_login_without_users_fails(browser: Browser) -> None:
    response = browser.get("/login?next=/who")
    assert (response.status_code, response.headers["location"]) == (303, "/who")
    assert "Wrong name or password." in browser.log_in().text


@pytest.mark.parametrize("url", ["http://localhost:8642", "http://[::1]:8642", "http://127.8.9.1", BASE_URL])
def test_loopback_host_without_users_is_accepted(open_browser: OpenBrowser, url: str) -> None:
    assert open_browser(base_url=url).get("/who").json() == LOCAL


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example:8642",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://10.0.0.7:8642",
    ],
)
@pytest.mark.parametrize("path", ["/who", "/api/v1/who", "/login", "/metrics"])
def test_foreign_host_header_without_users_is_rejected(
    open_browser: OpenBrowser, url: str, path: str
) -> None:
    """DNS rebinding would make a page of evil.example same-origin with the dashboard."""
    response = open_browser(base_url=url).get(path)
    assert response.status_code == 403
    assert "accession users add NAME --role administrator" in response.text


@pytest.mark.parametrize("host", ["", "[::1", "127.0.0.1@evil.example", "evil.example:127.0.0.1"])
def test_malformed_host_header_without_users_is_rejected(browser: Browser, host: str) -> None:
    assert browser.get("/who", headers={"Host": host}).status_code == 403


def test_remote_client_of_proxy_without_users_is_rejected(open_browser: OpenBrowser) -> None:
    """A trusted proxy reports the address of its client."""
    assert open_browser(address="10.0.0.7").get("/who").status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "accession.example"])  # noqa: S104
def test_non_loopback_bind_requires_login_even_without_users(
    open_browser: OpenBrowser, host: str, session: Session
) -> None:
    with pytest.raises(UserError, match="accession users add NAME --role administrator"):
        require_user_unless_loopback(session, host)
    assert open_browser(host=host).get("/api/v1/who").status_code == 401
    assert open_browser(host=host).get("/who").status_code == 303


def test_non_loopback_bind_with_user_is_allowed(session: Session, vic: str) -> None:
    require_user_unless_loopback(session, "0.0.0.0")  # noqa: S104


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_loopback_bind_without_users_is_allowed(session: Session, host: str) -> None:
    assert is_loopback(host)
    require_user_unless_loopback(session, host)


# Login


def test_first_user_makes_login_required_on_loopback(browser: Browser, ann: str) -> None:
    response = browser.get("/who?of=me&as=json")
    assert response.status_code == 303
    assert response.headers["location"] == "/login?next=/who%3Fof%3Dme%26as%3Djson"

    page = browser.get(response.headers["location"])
    assert page.status_code == 200
    assert '<input type="hidden" name="next" value="/who?of=me&amp;as=json">' in page.text

    logged_in = browser.log_in(next="/who?of=me&as=json")
    assert (logged_in.status_code, logged_in.headers["location"]) == (303, "/who?of=me&as=json")
    assert browser.get("/who").json() == ANN
    assert browser.post("/who").json() == {"changed_by": "ann"}
    assert browser.get("/login?next=/who").headers["location"] == "/who"


def test_post_without_login_redirects_to_login_without_next(browser: Browser, ann: str) -> None:
    response = browser.post("/who")
    assert (response.status_code, response.headers["location"]) == (303, "/login")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api"),
        ("POST", "/api/v1/who"),
        ("OPTIONS", "/metrics"),
    ],
)
def test_api_request_without_token_gets_problem_401(
    browser: Browser, ann: str, path: str, method: str
) -> None:
    response = browser.request(method, path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "Authentication required: send a token as Authorization: Bearer acc_...",
    }


OPDS_AUTHENTICATION = "application/opds-authentication+json"


@pytest.mark.parametrize(
    ("path", "media_type"), [("/oai", "application/problem+json"), ("/opds/v2", OPDS_AUTHENTICATION)]
)
def test_feed_request_without_token_is_asked_for_basic_auth(
    browser: Browser, ann: str, path: str, media_type: str
) -> None:
    response = browser.get(path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Basic realm="Accession", charset="UTF-8"'
    assert response.headers["content-type"] == media_type


@pytest.mark.parametrize(
    "path", ["/login", "/healthz", "/static/app.css", "/static/vendor/css/vendor/tabler.min.css"]
)
def test_public_path_needs_no_login(browser: Browser, ann: str, path: str) -> None:
    assert browser.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/favicon.ico", "/robots.txt", "/static/none.css"])
def test_missing_public_file_is_not_found(browser: Browser, ann: str, path: str) -> None:
    assert browser.get(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["/healthz/x", "/static", "/Login", "/login/x", "//static/app.css", "/openapi.json"]
)
def test_path_similar_to_public_one_needs_login(browser: Browser, ann: str, path: str) -> None:
    assert browser.get(f"{BASE_URL}{path}").status_code == 303


def test_public_path_needs_no_database(browser: Browser, no_database: None) -> None:
    assert browser.get("/healthz").json() == {"status": "alive"}
    assert browser.get("/static/app.css").status_code == 200


def test_unavailable_database_gets_status_503(browser: Browser, no_database: None) -> None:
    response = browser.get("/api/v1/who")
    assert (response.status_code, response.headers["retry-after"]) == (503, "10")
    assert response.json()["detail"] == (
        "The database is unavailable: check that it is running and that ACCESSION_DATABASE_URL is correct."
    )
    page = browser.get("/who")
    assert page.status_code == 503
    assert "The database is unavailable" in page.text


@pytest.fixture
def no_database(browser: Browser) -> Iterator[None]:
    """Let this process use a database that does not exist."""
    before = get_settings()
    nowhere = SecretStr("postgresql://nobody@127.0.0.1:9/none")
    for url in (nowhere, before.database_url):
        close_connections(engine())
        engine.cache_clear()
        use_settings(before.model_copy(update={"database_url": url}))
        if url is nowhere:
            yield


def test_viewer_can_read_but_not_change(browser: Browser, vic: str) -> None:
    browser.log_in("vic")
    assert browser.get("/who").json() == {"name": "vic", "role": "viewer", "by": "session"}

    page = browser.post("/who")
    assert page.status_code == 403
    assert page.headers["content-type"].startswith("text/html")
    assert "&#34;vic&#34; is a viewer and cannot change anything: ask an operator to do it." in page.text

    for method in CHANGING_METHODS:
        response = browser.request(method, "/api/v1/who")
        assert response.headers["content-type"] == "application/problem+json"
        assert (response.status_code, response.json()["title"]) == (403, "Forbidden")


# Sessions


def test_session_expires_twelve_hours_after_last_use(browser: Browser, ann: str) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        browser.log_in()
        for _ in range(3):
            clock.shift(MAX_AGE - timedelta(minutes=1))
            assert browser.get("/who").json() == ANN
        clock.shift(MAX_AGE + timedelta(minutes=1))
        assert browser.get("/who").status_code == 303


def test_expired_session_cookie_is_rejected(browser: Browser, ann: str) -> None:
    """A browser deletes the cookie when it expires, but an attacker may have kept it."""
    with time_machine.travel(NOON, tick=False) as clock:
        browser.log_in()
        cookie = browser.cookies[COOKIE]
        clock.shift(MAX_AGE + timedelta(seconds=1))
        browser.cookies.clear()
        browser.cookies.set(COOKIE, cookie)
        assert browser.get("/who").status_code == 303


def test_session_cookie_is_renewed_at_most_once_an_hour(browser: Browser, ann: str) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        browser.log_in()
        clock.shift(timedelta(minutes=59))
        assert "set-cookie" not in browser.get("/who").headers
        clock.shift(timedelta(minutes=2))
        assert "Max-Age=43200" in browser.get("/who").headers["set-cookie"]
        assert "set-cookie" not in browser.get("/who").headers


def test_logout_ends_session_that_is_due_for_renewal(browser: Browser, ann: str) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        browser.log_in()
        clock.shift(timedelta(hours=2))
        response = browser.post("/logout")
        assert (response.status_code, response.headers["location"]) == (303, "/login")
        assert len(response.headers.get_list("set-cookie")) == 1
        assert COOKIE not in browser.cookies
        assert browser.get("/who").status_code == 303


@pytest.mark.parametrize(
    "change",
    [
        lambda session: set_password(session, "ann", SecretStr("another long password")),
        lambda session: set_role(session, "ann", UserRole.VIEWER),
        lambda session: remove_user(session, "ann"),
    ],
    ids=["password", "role", "removed"],
)
def test_change_of_user_ends_all_sessions_of_the_user(
    open_browser: OpenBrowser, session: Session, ann: str, vic: str, change: Any
) -> None:
    laptop, phone, other = open_browser(), open_browser(), open_browser()
    for browser in (laptop, phone):
        browser.log_in()
    other.log_in("vic")
    change(session)
    session.commit()
    assert {browser.get("/who").status_code for browser in (laptop, phone)} == {303}
    assert other.get("/who").json()["name"] == "vic"


def test_user_recreated_under_same_name_has_no_session(browser: Browser, session: Session, ann: str) -> None:
    browser.log_in()
    remove_user(session, "ann")
    make_user(session, "ann", UserRole.OPERATOR)
    assert browser.get("/who").status_code == 303


def test_new_encryption_key_ends_all_sessions(browser: Browser, ann: str, tmp_path: Path) -> None:
    use_settings(get_settings().model_copy(update={"home": tmp_path}))
    browser.log_in()
    assert browser.get("/who").json() == ANN
    (tmp_path / KEY_FILE).write_bytes(Fernet.generate_key())
    assert browser.get("/who").status_code == 303


@pytest.mark.parametrize(
    "cookie", ["", "x", "a.b.c", "WzEsIngiXQ.aaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbb", "\x7f", '"']
)
def test_unsigned_session_cookie_is_rejected(browser: Browser, ann: str, cookie: str) -> None:
    assert browser.get("/who", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 303


def test_altered_session_cookie_is_rejected(browser: Browser, ann: str) -> None:
    browser.log_in()
    cookie = browser.cookies[COOKIE]
    browser.cookies.clear()
    for position in range(0, len(cookie) - 1, 7):
        other = "A" if cookie[position] != "A" else "B"
        altered = cookie[:position] + other + cookie[position + 1 :]
        assert browser.get("/who", headers={"Cookie": f"{COOKIE}={altered}"}).status_code == 303


@pytest.mark.parametrize(
    ("url", "secure"), [("http://127.0.0.1:8642", False), ("https://accession.example", True)]
)
def test_session_cookie_has_protective_attributes(
    open_browser: OpenBrowser, ann: str, url: str, secure: bool
) -> None:
    browser = open_browser(base_url=url)
    value, *attributes = browser.log_in().headers["set-cookie"].split("; ")
    assert value.startswith(f"{COOKIE}=")
    assert attributes[:4] == ["Max-Age=43200", "Path=/", "HttpOnly", "SameSite=Lax"]
    assert attributes[4:] == (["Secure"] if secure else [])
    assert browser.get("/who").json() == ANN


# Tokens with a role


def test_revoked_token_is_rejected(browser: Browser, session: Session, ann: str) -> None:
    browser.headers = bearer(make_token(session, role=UserRole.VIEWER))
    assert browser.get("/api/v1/who").json() == {"name": "script", "role": "viewer", "by": "token"}
    assert browser.get("/who").json()["by"] == "token"
    assert browser.post("/api/v1/who").status_code == 403

    revoke_token(session, "script")
    session.commit()
    response = browser.get("/api/v1/who")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert response.json()["detail"] == (
        "This token is unknown or revoked: create another with `accession tokens add`."
    )


def test_invalid_token_is_rejected_even_without_users(browser: Browser) -> None:
    for token in ("", "acc_", "acc_" + "x" * 43, "\xe9"):
        response = browser.get("/who", headers={"Authorization": f"Bearer {token}".encode("latin-1")})
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"


def test_operator_token_can_change_without_browser_headers(
    open_browser: OpenBrowser, session: Session, ann: str
) -> None:
    curl = open_browser(headers=bearer(make_token(session)))
    for method in CHANGING_METHODS:
        assert curl.request(method, "/api/v1/who").json() == {"changed_by": "script"}


def test_basic_auth_outside_feeds_is_ignored(browser: Browser, ann: str) -> None:
    response = browser.get("/api/v1/who", headers={"Authorization": "Basic YW5uOng="})
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


def test_token_use_is_recorded_once_a_minute(browser: Browser, session: Session) -> None:
    browser.headers = bearer(make_token(session))

    def last_used_at() -> Any:
        session.rollback()
        return session.scalar(select(ApiToken.last_used_at))

    assert last_used_at() is None
    with time_machine.travel(NOON, tick=False) as clock:
        browser.get("/who")
        assert last_used_at() == NOON
        clock.shift(timedelta(seconds=59))
        browser.get("/who")
        assert last_used_at() == NOON
        clock.shift(timedelta(seconds=1))
        browser.get("/who")
        assert last_used_at() == utc_now()


# Feed tokens


def token_options(token: str, method: str) -> dict[str, Any]:
    """Return the request options that send the token as bearer, HTTP Basic password or query parameter."""
    if method == "query":
        return {"params": {"token": token}}
    basic = b64encode(f"anyone:{token}".encode()).decode()
    return {"headers": {"Authorization": f"Basic {basic}"} if method == "basic" else bearer(token)}


@pytest.mark.parametrize("method", ["bearer", "basic", "query"])
def test_feed_token_reads_its_feed_until_revoked(
    browser: Browser, session: Session, ann: str, method: str
) -> None:
    options = token_options(make_feed_token(session, FeedKind.OPDS), method)
    assert browser.get("/opds/who", **options).json() == {"name": "app", "collection_id": None}
    assert browser.get("/opds/who/viewer", **options).json()["role"] == "viewer"
    revoke_token(session, "app")
    session.commit()
    response = browser.get("/opds/who", **options)
    assert response.status_code == 401
    assert response.headers["content-type"] == OPDS_AUTHENTICATION
    assert "www-authenticate" in response.headers


def test_feed_token_outside_its_feed_is_rejected(browser: Browser, session: Session, ann: str) -> None:
    token = make_feed_token(session, FeedKind.OPDS)
    for path in ("/", "/who", "/api/v1/who", "/metrics", "/covers/abc", "/oai/who", "/opdsx", "/exports/x"):
        response = browser.get(path, headers=bearer(token))
        assert (response.status_code, response.headers["content-type"]) == (403, "application/problem+json")
        assert response.json()["detail"] == 'The token "app" only allows reading /opds.'
    for path in ("/oai/who", "/exports/x"):
        for method in ("basic", "query"):
            response = browser.get(path, **token_options(token, method))
            assert (response.status_code, response.headers["content-type"]) == (
                403,
                "application/problem+json",
            )
    for method in ("basic", "query"):
        assert browser.get("/api/v1/who", **token_options(token, method)).status_code == 401
    for verb in (*CHANGING_METHODS, "OPTIONS"):
        assert browser.request(verb, "/opds/who", headers=bearer(token)).status_code == 403


def test_token_for_two_feeds_reads_both(browser: Browser, session: Session, ann: str) -> None:
    browser.headers = bearer(make_feed_token(session, FeedKind.OPDS, FeedKind.OAI))
    assert {browser.get(path).status_code for path in ("/opds/who", "/oai/who")} == {200}
    detail = browser.get("/exports/x").json()["detail"]
    assert detail == 'The token "app" only allows reading /oai and /opds.'


def test_feed_token_of_collection_only_opens_reader_routes(
    browser: Browser, session: Session, collection: Collection, ann: str
) -> None:
    browser.headers = bearer(make_feed_token(session, collection=collection.name))
    assert browser.get("/opds/who").json() == {"name": "app", "collection_id": collection.id}
    response = browser.get("/opds/who/viewer")
    assert response.status_code == 403
    assert response.json()["detail"] == 'The token "app" only allows reading the feeds of one collection.'


@pytest.mark.parametrize("method", ["basic", "query"])
def test_token_with_role_is_only_accepted_as_bearer(
    browser: Browser, session: Session, ann: str, method: str
) -> None:
    token = make_token(session)
    assert browser.get("/opds/who", headers=bearer(token)).status_code == 200
    response = browser.get("/opds/who", **token_options(token, method))
    assert response.status_code == 401
    assert response.json()["description"] == (
        'The token "script" has a role: send it as Authorization: Bearer acc_...'
    )
    # It does not make a cross-site request acceptable either.
    assert browser.post("/opds/who", **token_options(token, method)).status_code == 401


@pytest.mark.parametrize("encoded", ["", "=", "YQ", "/w==", b64encode(b"proxy:its-password").decode()])
def test_basic_login_of_proxy_is_not_taken_for_token(browser: Browser, ann: str, encoded: str) -> None:
    headers = {"Authorization": f"Basic {encoded}"}
    description = browser.get("/opds/who", headers=headers).json()["description"]
    assert description.startswith("Enter any name, and as password a token for OPDS")
    browser.log_in()
    assert browser.get("/opds/who", headers=headers).json()["name"] == "ann"


# Cross-site requests

CROSS_SITE_HEADERS = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": BASE_URL},
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "null"},
    {"Origin": "http://[", "Referer": BASE_URL},
    {"Origin": "http://evil.example", "Referer": BASE_URL},
    {"Referer": "http://evil.example/http://127.0.0.1:8642/"},
    {"Referer": "http://127.0.0.1:8642@evil.example/"},
    {"Referer": ""},
    {},
]
SAME_SITE_HEADERS = [
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": BASE_URL},
    {"Referer": f"{BASE_URL}/runs?state=failed"},
]


@pytest.mark.parametrize("user", ["ann", None])
def test_cross_site_change_is_rejected(browser: Browser, session: Session, user: str | None) -> None:
    if user is not None:
        make_user(session, user, UserRole.OPERATOR)
        browser.log_in()
    for browser.headers in CROSS_SITE_HEADERS:
        for method in CHANGING_METHODS:
            for path in ("/who", "/api/v1/who", "/login", "/logout"):
                response = browser.request(method, path)
                assert response.status_code == 403, browser.headers
                assert "was not sent from a page of this dashboard" in response.text
                assert "set-cookie" not in response.headers


@pytest.mark.parametrize("user", ["ann", None])
def test_same_site_change_is_accepted(browser: Browser, session: Session, user: str | None) -> None:
    if user is not None:
        make_user(session, user, UserRole.OPERATOR)
        browser.log_in()
    for browser.headers in SAME_SITE_HEADERS:
        assert browser.post("/who").json() == {"changed_by": user or "local"}, browser.headers


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/api/v1/collections", "application/json"),
        ("/collections/1/runs", "application/x-www-form-urlencoded"),
        ("/collections/1/runs", "multipart/form-data; boundary=x"),
    ],
)
@pytest.mark.parametrize("has_length", [True, False])
def test_body_that_is_too_long_is_rejected(
    browser: Browser, path: str, media_type: str, has_length: bool
) -> None:
    chunks_read: list[int] = []

    async def endless_body() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="workflow"; filename="x"\r\n\r\n'
        while True:
            chunks_read.append(1)
            yield b"x" * 64 * 1024

    headers = {"Content-Type": media_type} | ({"Content-Length": "2000000"} if has_length else {})
    response = browser.post(path, content=endless_body(), headers=headers)
    assert response.status_code == 413
    assert "The request is too long: send at most 1,048,576 bytes." in response.text
    assert "content-security-policy" in response.headers
    assert len(chunks_read) <= 17


def test_cross_site_link_to_page_is_accepted(browser: Browser, ann: str) -> None:
    browser.log_in()
    browser.headers = {"Sec-Fetch-Site": "cross-site"}
    assert browser.get("/who").json() == ANN


def test_web_socket_is_closed(browser: Browser) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/who", "headers": [], "query_string": b""}
    asyncio.run(browser.app(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
