"""Who is let in: an open house on loopback, users who log in, programs with a token, and nobody else."""

import asyncio
from base64 import b64encode
from collections.abc import Iterator
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
from accession.auth.users import Feed, Role, remove_user, revoke_token, set_password, set_role
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.loopback import is_loopback
from accession.core.settings import get_settings, use_settings
from accession.db.engine import engine
from accession.db.models import ApiToken, Collection
from accession.web.server import refuse_open_house
from accession.web.sessions import COOKIE, LASTS
from tests.fixtures.factories import NOON
from tests.fixtures.web_client import HERE, Browser, Open, make_feed_token, make_token, make_user

LOCAL = {"name": "local", "role": "operator", "by": "local"}
ANN = {"name": "ann", "role": "operator", "by": "session"}
CHANGING = ("POST", "PUT", "PATCH", "DELETE")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# The open house


def test_at_the_first_start_whoever_is_on_this_machine_may_do_everything(browser: Browser) -> None:
    assert browser.get("/who").json() == LOCAL
    assert browser.post("/who").json() == {"changed_by": "local"}
    assert browser.post("/api/v1/who").json() == {"changed_by": "local"}


def test_there_is_nobody_to_log_in_as_then(browser: Browser) -> None:
    answer = browser.get("/login?next=/who")
    assert (answer.status_code, answer.headers["location"]) == (303, "/who")
    assert "Name or password is wrong." in browser.log_in().text


@pytest.mark.parametrize("url", ["http://localhost:8642", "http://[::1]:8642", "http://127.8.9.1", HERE])
def test_it_is_open_by_each_name_of_this_machine(browser_on: Open, url: str) -> None:
    assert browser_on(base_url=url).get("/who").json() == LOCAL


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
def test_a_name_that_was_bent_to_this_machine_opens_nothing(browser_on: Open, url: str, path: str) -> None:
    """DNS rebinding: the page of evil.example would be of the same origin as ours."""
    answer = browser_on(base_url=url).get(path)
    assert answer.status_code == 403
    assert "accession users add NAME --role operator" in answer.text


@pytest.mark.parametrize("host", ["", "[::1", "127.0.0.1@evil.example", "evil.example:127.0.0.1"])
def test_nor_does_a_host_that_is_none(browser: Browser, host: str) -> None:
    assert browser.get("/who", headers={"Host": host}).status_code == 403


def test_a_proxy_does_not_open_the_house_to_other_machines(browser_on: Open) -> None:
    """What a trusted proxy says of the client is the request's address."""
    assert browser_on(address="10.0.0.7").get("/who").status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "accession.example"])  # noqa: S104
def test_at_another_address_nothing_is_open_though_the_last_user_be_gone(
    browser_on: Open, host: str, session: Session
) -> None:
    with pytest.raises(UserError, match="accession users add NAME --role operator"):
        refuse_open_house(session, host)
    assert browser_on(host=host).get("/api/v1/who").status_code == 401
    assert browser_on(host=host).get("/who").status_code == 303


def test_with_a_user_it_may_be_served_anywhere(session: Session, vic: str) -> None:
    refuse_open_house(session, "0.0.0.0")  # noqa: S104


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_an_open_house_is_no_fault_on_loopback(session: Session, host: str) -> None:
    assert is_loopback(host)
    refuse_open_house(session, host)


# Those who log in


def test_once_there_is_a_user_everybody_logs_in_on_loopback_too(browser: Browser, ann: str) -> None:
    answer = browser.get("/who?of=me&as=json")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=/who%3Fof%3Dme%26as%3Djson"

    page = browser.get(answer.headers["location"])
    assert page.status_code == 200
    assert '<input type="hidden" name="next" value="/who?of=me&amp;as=json">' in page.text

    inside = browser.log_in(next="/who?of=me&as=json")
    assert (inside.status_code, inside.headers["location"]) == (303, "/who?of=me&as=json")
    assert browser.get("/who").json() == ANN
    assert browser.post("/who").json() == {"changed_by": "ann"}
    assert browser.get("/login?next=/who").headers["location"] == "/who"


def test_a_deed_without_a_login_leads_to_the_login_and_not_back_to_the_deed(
    browser: Browser, ann: str
) -> None:
    answer = browser.post("/who")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api"),
        ("POST", "/api/v1/who"),
        ("OPTIONS", "/metrics"),
    ],
)
def test_a_program_is_told_that_it_needs_a_token(browser: Browser, ann: str, path: str, method: str) -> None:
    answer = browser.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "This needs a token, as in: Authorization: Bearer acc_...",
    }


@pytest.mark.parametrize("path", ["/oai", "/opds/v2"])
def test_a_reading_app_is_asked_for_a_name_and_a_password(browser: Browser, ann: str, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="Accession", charset="UTF-8"'
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["/login", "/healthz", "/static/app.css", "/static/vendor/css/vendor/tabler.min.css"]
)
def test_some_paths_are_open_to_everybody(browser: Browser, ann: str, path: str) -> None:
    assert browser.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/favicon.ico", "/static/none.css"])
def test_so_are_these_when_there_is_something(browser: Browser, ann: str, path: str) -> None:
    assert browser.get(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["/healthz/x", "/static", "/Login", "/login/x", "//static/app.css", "/openapi.json"]
)
def test_and_no_others(browser: Browser, ann: str, path: str) -> None:
    assert browser.get(f"{HERE}{path}").status_code == 303


def test_what_is_open_needs_no_database(browser: Browser, no_database: None) -> None:
    assert browser.get("/healthz").json() == {"status": "alive"}
    assert browser.get("/static/app.css").status_code == 200


def test_a_database_that_is_away_is_told_as_such(browser: Browser, no_database: None) -> None:
    answer = browser.get("/api/v1/who")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert answer.json()["detail"] == "The database does not answer: see `accession doctor`."
    page = browser.get("/who")
    assert page.status_code == 503
    assert "The database does not answer" in page.text


@pytest.fixture
def no_database(browser: Browser) -> Iterator[None]:
    """While a test lasts this process knows a database that is none."""
    before = get_settings()
    away = SecretStr("postgresql://nobody@127.0.0.1:9/none")
    for url in (away, before.database_url):
        engine().dispose()
        engine.cache_clear()
        use_settings(before.model_copy(update={"database_url": url}))
        if url is away:
            yield


def test_a_viewer_sees_and_cannot_change(browser: Browser, vic: str) -> None:
    browser.log_in("vic")
    assert browser.get("/who").json() == {"name": "vic", "role": "viewer", "by": "session"}

    page = browser.post("/who")
    assert page.status_code == 403
    assert page.headers["content-type"].startswith("text/html")
    assert "&#34;vic&#34; may see everything and change nothing: ask an operator." in page.text

    for method in CHANGING:
        answer = browser.request(method, "/api/v1/who")
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")


# Sessions end


def test_a_session_lasts_for_twelve_hours_from_its_last_use(browser: Browser, ann: str) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        browser.log_in()
        for _ in range(3):
            clock.shift(LASTS - timedelta(minutes=1))
            assert browser.get("/who").json() == ANN
        clock.shift(LASTS + timedelta(minutes=1))
        assert browser.get("/who").status_code == 303


def test_a_session_that_is_over_cannot_be_shown_again(browser: Browser, ann: str) -> None:
    """By one who kept the cookie, where a browser forgets it."""
    with time_machine.travel(NOON, tick=False) as clock:
        browser.log_in()
        kept = browser.cookies[COOKIE]
        clock.shift(LASTS + timedelta(seconds=1))
        browser.cookies.clear()
        browser.cookies.set(COOKIE, kept)
        assert browser.get("/who").status_code == 303


def test_the_cookie_is_renewed_once_an_hour_and_not_with_each_request(browser: Browser, ann: str) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        browser.log_in()
        clock.shift(timedelta(minutes=59))
        assert "set-cookie" not in browser.get("/who").headers
        clock.shift(timedelta(minutes=2))
        assert "Max-Age=43200" in browser.get("/who").headers["set-cookie"]
        assert "set-cookie" not in browser.get("/who").headers


def test_logging_out_ends_it_in_this_browser_however_old_it_is(browser: Browser, ann: str) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        browser.log_in()
        clock.shift(timedelta(hours=2))
        answer = browser.post("/logout")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        assert len(answer.headers.get_list("set-cookie")) == 1
        assert COOKIE not in browser.cookies
        assert browser.get("/who").status_code == 303


@pytest.mark.parametrize(
    "change",
    [
        lambda session: set_password(session, "ann", SecretStr("another long password")),
        lambda session: set_role(session, "ann", Role.VIEWER),
        lambda session: remove_user(session, "ann"),
    ],
    ids=["password", "role", "removed"],
)
def test_a_change_of_the_user_ends_every_session(
    browser_on: Open, session: Session, ann: str, vic: str, change: Any
) -> None:
    at_home, at_work, other = browser_on(), browser_on(), browser_on()
    for browser in (at_home, at_work):
        browser.log_in()
    other.log_in("vic")
    change(session)
    session.commit()
    assert {browser.get("/who").status_code for browser in (at_home, at_work)} == {303}
    assert other.get("/who").json()["name"] == "vic"


def test_a_user_who_comes_back_under_the_same_name_has_no_old_session(
    browser: Browser, session: Session, ann: str
) -> None:
    browser.log_in()
    remove_user(session, "ann")
    make_user(session, "ann", Role.OPERATOR)
    assert browser.get("/who").status_code == 303


def test_a_new_key_of_the_installation_ends_every_session(
    browser: Browser, session: Session, ann: str, tmp_path: Path
) -> None:
    use_settings(get_settings().model_copy(update={"home": tmp_path}))
    browser.log_in()
    assert browser.get("/who").json() == ANN
    (tmp_path / KEY_FILE).write_bytes(Fernet.generate_key())
    assert browser.get("/who").status_code == 303


@pytest.mark.parametrize(
    "cookie", ["", "x", "a.b.c", "WzEsIngiXQ.aaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbb", "\x7f", '"']
)
def test_a_cookie_that_we_have_not_signed_opens_nothing(browser: Browser, ann: str, cookie: str) -> None:
    assert browser.get("/who", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 303


def test_a_cookie_that_was_altered_opens_nothing(browser: Browser, ann: str) -> None:
    browser.log_in()
    kept = browser.cookies[COOKIE]
    browser.cookies.clear()
    for place in range(0, len(kept) - 1, 7):
        altered = kept[:place] + ("A" if kept[place] != "A" else "B") + kept[place + 1 :]
        assert browser.get("/who", headers={"Cookie": f"{COOKIE}={altered}"}).status_code == 303


@pytest.mark.parametrize(
    ("url", "secure"), [("http://127.0.0.1:8642", False), ("https://accession.example", True)]
)
def test_no_script_and_no_other_site_gets_the_cookie_and_behind_tls_no_plain_connection(
    browser_on: Open, ann: str, url: str, secure: bool
) -> None:
    browser = browser_on(base_url=url)
    value, *attributes = browser.log_in().headers["set-cookie"].split("; ")
    assert value.startswith(f"{COOKIE}=")
    assert attributes[:4] == ["Max-Age=43200", "Path=/", "HttpOnly", "SameSite=Lax"]
    assert attributes[4:] == (["Secure"] if secure else [])
    assert browser.get("/who").json() == ANN


# Tokens


def test_a_token_works_until_it_is_revoked(browser: Browser, session: Session, ann: str) -> None:
    token = make_token(session, role=Role.VIEWER)
    browser.says = bearer(token)
    assert browser.get("/api/v1/who").json() == {"name": "script", "role": "viewer", "by": "token"}
    assert browser.get("/who").json()["by"] == "token"
    assert browser.post("/api/v1/who").status_code == 403

    revoke_token(session, "script")
    session.commit()
    answer = browser.get("/api/v1/who")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert answer.json()["detail"] == (
        "This token is unknown or revoked: make another with `accession tokens add`."
    )


def test_a_token_that_is_wrong_opens_not_even_an_open_house(browser: Browser) -> None:
    for wrong in ("", "acc_", "acc_" + "x" * 43, "\xe9"):
        answer = browser.get("/who", headers={"Authorization": f"Bearer {wrong}".encode("latin-1")})
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"


def test_an_operators_token_changes_things_from_a_plain_client(
    browser_on: Open, session: Session, ann: str
) -> None:
    curl = browser_on(says=bearer(make_token(session)))
    for method in CHANGING:
        assert curl.request(method, "/api/v1/who").json() == {"changed_by": "script"}


def test_other_ways_to_authorize_are_passed_over(browser: Browser, ann: str) -> None:
    answer = browser.get("/api/v1/who", headers={"Authorization": "Basic YW5uOng="})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_the_use_of_a_token_is_noted_once_a_minute(browser: Browser, session: Session) -> None:
    browser.says = bearer(make_token(session))

    def noted() -> Any:
        session.rollback()
        return session.scalar(select(ApiToken.last_used_at))

    assert noted() is None
    with time_machine.travel(NOON, tick=False) as clock:
        browser.get("/who")
        assert noted() == NOON
        clock.shift(timedelta(seconds=59))
        browser.get("/who")
        assert noted() == NOON
        clock.shift(timedelta(seconds=1))
        browser.get("/who")
        assert noted() == utc_now()


# Tokens of feeds


def shown(token: str, way: str) -> dict[str, Any]:
    """A request's options that show the token in this way."""
    if way == "address":
        return {"params": {"token": token}}
    basic = b64encode(f"whoever:{token}".encode()).decode()
    return {"headers": {"Authorization": f"Basic {basic}"} if way == "basic" else bearer(token)}


@pytest.mark.parametrize("way", ["bearer", "basic", "address"])
def test_a_feed_token_opens_its_feed_in_each_way_until_it_is_revoked(
    browser: Browser, session: Session, ann: str, way: str
) -> None:
    options = shown(make_feed_token(session, Feed.OPDS), way)
    assert browser.get("/opds/who", **options).json() == {"name": "app", "collection_id": None}
    assert browser.get("/opds/who/everything", **options).json()["role"] == "viewer"
    revoke_token(session, "app")
    session.commit()
    answer = browser.get("/opds/who", **options)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert "www-authenticate" in answer.headers


def test_a_feed_token_opens_nothing_else(browser: Browser, session: Session, ann: str) -> None:
    token = make_feed_token(session, Feed.OPDS)
    for path in ("/", "/who", "/api/v1/who", "/metrics", "/covers/abc", "/oai/who", "/opdsx", "/exports/x"):
        answer = browser.get(path, headers=bearer(token))
        assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
        assert answer.json()["detail"] == 'The token "app" is for reading /opds, and opens nothing else.'
    for path in ("/oai/who", "/exports/x"):
        for way in ("basic", "address"):
            answer = browser.get(path, **shown(token, way))
            assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    for way in ("basic", "address"):
        assert browser.get("/api/v1/who", **shown(token, way)).status_code == 401
    for method in (*CHANGING, "OPTIONS"):
        assert browser.request(method, "/opds/who", headers=bearer(token)).status_code == 403


def test_a_token_may_be_for_several_feeds(browser: Browser, session: Session, ann: str) -> None:
    browser.says = bearer(make_feed_token(session, Feed.OPDS, Feed.OAI))
    assert {browser.get(path).status_code for path in ("/opds/who", "/oai/who")} == {200}
    told = browser.get("/exports/x").json()["detail"]
    assert told == 'The token "app" is for reading /oai and /opds, and opens nothing else.'


def test_a_feed_token_of_one_collection_opens_only_what_minds_it(
    browser: Browser, session: Session, collection: Collection, ann: str
) -> None:
    browser.says = bearer(make_feed_token(session, collection=collection.name))
    assert browser.get("/opds/who").json() == {"name": "app", "collection_id": collection.id}
    answer = browser.get("/opds/who/everything")
    assert answer.status_code == 403
    assert answer.json()["detail"] == 'The token "app" opens the feeds of one collection, and not this.'


@pytest.mark.parametrize("way", ["basic", "address"])
def test_a_token_of_a_role_is_taken_only_as_a_bearer(
    browser: Browser, session: Session, ann: str, way: str
) -> None:
    token = make_token(session)
    assert browser.get("/opds/who", headers=bearer(token)).status_code == 200
    answer = browser.get("/opds/who", **shown(token, way))
    assert answer.status_code == 401
    assert answer.json()["detail"] == (
        'The token "script" is of a role: send it as Authorization: Bearer acc_...'
    )
    # Nor does it make up for a page of ours.
    assert browser.post("/opds/who", **shown(token, way)).status_code == 401


@pytest.mark.parametrize("coded", ["", "=", "YQ", "/w==", b64encode(b"proxy:its-password").decode()])
def test_a_login_of_a_proxy_is_no_token_of_ours(browser: Browser, ann: str, coded: str) -> None:
    answer = browser.get("/opds/who", headers={"Authorization": f"Basic {coded}"})
    assert answer.json()["detail"] == "This needs a token, as in: Authorization: Bearer acc_..."
    browser.log_in()
    assert browser.get("/opds/who", headers={"Authorization": f"Basic {coded}"}).json()["name"] == "ann"


# Changes that come from elsewhere

ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": HERE},
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "null"},
    {"Origin": "http://[", "Referer": HERE},
    {"Origin": "http://evil.example", "Referer": HERE},
    {"Referer": "http://evil.example/http://127.0.0.1:8642/"},
    {"Referer": "http://127.0.0.1:8642@evil.example/"},
    {"Referer": ""},
    {},
]
FROM_HERE = [
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": HERE},
    {"Referer": f"{HERE}/runs?state=failed"},
]


@pytest.mark.parametrize("somebody", ["ann", None])
def test_a_change_that_another_site_makes_a_browser_send_is_refused(
    browser: Browser, session: Session, somebody: str | None
) -> None:
    if somebody is not None:
        make_user(session, somebody, Role.OPERATOR)
        browser.log_in()
    for browser.says in ELSEWHERE:
        for method in CHANGING:
            for path in ("/who", "/api/v1/who", "/login", "/logout"):
                answer = browser.request(method, path)
                assert answer.status_code == 403, browser.says
                assert "does not come from a page of this dashboard" in answer.text
                assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("somebody", ["ann", None])
def test_one_from_a_page_of_ours_is_not(browser: Browser, session: Session, somebody: str | None) -> None:
    if somebody is not None:
        make_user(session, somebody, Role.OPERATOR)
        browser.log_in()
    for browser.says in FROM_HERE:
        assert browser.post("/who").json() == {"changed_by": somebody or "local"}, browser.says


def test_whoever_follows_a_link_from_elsewhere_sees_the_page(browser: Browser, ann: str) -> None:
    browser.log_in()
    browser.says = {"Sec-Fetch-Site": "cross-site"}
    assert browser.get("/who").json() == ANN


def test_there_are_no_web_sockets_that_somebody_would_have_to_guard(browser: Browser) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/who", "headers": [], "query_string": b""}
    asyncio.run(browser.app(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
