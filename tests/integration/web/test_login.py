"""The login: a page, one sentence when it fails, an end to trying, and never a way to another site."""

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

from accession.core.settings import get_settings, use_settings
from accession.web.login import local_path
from accession.web.sessions import COOKIE
from accession.web.throttle import FAILURES, count_try, forgive
from tests.fixtures.factories import PASSWORD
from tests.fixtures.web_client import HERE, Browser, Open

WRONG = "Name or password is wrong."


def alerts(page: str) -> list[str]:
    return [str(found.text_content()) for found in html.document_fromstring(page).xpath("//*[@role='alert']")]


# The page


def test_each_field_has_its_label_and_says_what_a_browser_may_fill_in(browser: Browser, ann: str) -> None:
    page = browser.get("/login").text
    assert alerts(page) == []
    form = html.document_fromstring(page).forms[0]
    shown = [field for field in form.inputs if field.get("type") != "hidden"]
    labels = {label.get("for"): label.text for label in form.iter("label")}
    assert [labels[field.get("id")] for field in shown] == ["Name", "Password"]
    assert [field.get("autocomplete") for field in shown] == ["username", "current-password"]
    assert (form.method, form.action, form.fields["next"]) == ("POST", "/login", "/")


def test_the_page_has_nothing_that_the_policy_forbids(browser: Browser, ann: str) -> None:
    page = browser.get("/login").text
    assert not re.search(r"<script(?! src=\"/static/)|<style|style=|\son\w+=|https?:", page)


def test_a_wrong_name_and_a_wrong_password_are_told_alike(browser: Browser, ann: str) -> None:
    answers = [
        browser.log_in("ann", "a wrong password"),
        browser.log_in("bob", PASSWORD),
        browser.log_in("", ""),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert {tuple(alerts(answer.text)) for answer in answers} == {(WRONG,)}
    assert not any("set-cookie" in answer.headers for answer in answers)
    assert browser.get("/who").status_code == 303


def test_what_was_typed_stands_there_again_escaped_and_the_password_does_not(
    browser: Browser, ann: str
) -> None:
    answer = browser.log_in('"><script>', "a wrong password", next="/who?a=1&b=2")
    assert 'value="&#34;&gt;&lt;script&gt;"' in answer.text
    assert 'value="/who?a=1&amp;b=2"' in answer.text
    assert "a wrong password" not in answer.text


@pytest.mark.parametrize("content", [b"name", b"\xff\xfe=\x00", b"name=ann%00&password=x", b"a=b&" * 50])
def test_a_form_with_nonsense_is_a_wrong_login(browser: Browser, ann: str, content: bytes) -> None:
    answer = browser.post("/login", content=content)
    assert (answer.status_code, alerts(answer.text)) == (401, [WRONG])


def test_a_long_form_is_not_read_to_its_end(browser: Browser, ann: str) -> None:
    read: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            read.append(1)
            yield b"x" * 5_000

    assert browser.post("/login", content=endless()).status_code == 413
    assert len(read) <= 4


# Where it leads

ELSEWHERE = [
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


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_login_never_leads_to_another_site(browser: Browser, path: str) -> None:
    answer = browser.get("/login", params={"next": path})
    assert answer.headers["location"] == "/"


def test_nor_after_a_password(browser: Browser, ann: str) -> None:
    answer = browser.log_in(next="//evil.example")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize(
    "path", ["/", "/who", "/runs?state=failed&page=2", "/titles/a%20b", "/a//b", "/who#top"]
)
def test_it_leads_where_somebody_wanted_to_go(browser: Browser, path: str) -> None:
    assert browser.get("/login", params={"next": path}).headers["location"] == path


def where_a_browser_goes(path: str) -> tuple[str, str]:
    """Scheme and host of the address, read as the URL standard has browsers read it."""
    read = re.sub("[\t\n\r]", "", path.strip("".join(map(chr, range(33))))).replace("\\", "/")
    # Any number of slashes stands before a host.
    read = re.sub("^//+", "//", read)
    url = urlsplit(urljoin(f"{HERE}/login", read))
    return url.scheme, url.netloc


SLY = st.text(st.sampled_from("/\\.:@?#%&;=\t\n\r \x00\x0b\x7f\x85 [evilhtps") | st.characters(), max_size=20)


@given(SLY | SLY.map(lambda rest: f"/{rest}") | SLY.map(lambda rest: f"//{rest}"))
@hypothesis_settings(max_examples=500, deadline=None)
def test_no_path_whatever_leads_to_another_site(path: str) -> None:
    led = local_path(path)
    assert led in (path, "/")
    assert led.startswith("/")
    assert where_a_browser_goes(led) == ("http", "127.0.0.1:8642")


@given(SLY.map(lambda rest: f"/{rest}"))
@hypothesis_settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nor_does_the_answer_to_it(browser: Browser, path: str) -> None:
    answer = browser.get("/login", params={"next": path})
    assert answer.status_code == 303
    assert where_a_browser_goes(answer.headers["location"]) == ("http", "127.0.0.1:8642")


# No trying


def fail(browser: Browser, name: str = "ann", times: int = FAILURES) -> None:
    """As a login with a wrong password counts."""
    for _ in range(times):
        assert count_try(name, browser.address) == 0


def refused(browser: Browser, name: str = "ann") -> bool:
    answer = browser.log_in(name)
    assert answer.status_code in (303, 429)
    return answer.status_code == 429


def test_after_five_failures_the_right_password_is_refused_too(browser: Browser, ann: str) -> None:
    for _ in range(FAILURES):
        assert browser.log_in(password="a wrong password").status_code == 401
    answer = browser.log_in()
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 900
    assert alerts(answer.text) == ["There were too many failed logins: try again in 15 min."]
    assert COOKIE not in browser.cookies


def test_the_name_is_refused_from_every_address(browser_on: Open, ann: str, vic: str) -> None:
    fail(browser_on(address="10.0.0.1"))
    elsewhere = browser_on(address="10.0.0.2")
    assert refused(elsewhere)
    assert not refused(elsewhere, "vic")


def test_the_address_is_refused_with_every_name(browser_on: Open, ann: str) -> None:
    browser = browser_on(address="10.0.0.1")
    for number in range(FAILURES):
        fail(browser, f"guess{number}", times=1)
    assert refused(browser)
    assert not refused(browser_on(address="10.0.0.2"))


@pytest.mark.parametrize(
    ("address", "same"), [("2001:db8:1:2:ffff::9", True), ("2001:db8:1:3::1", False), ("10.0.0.1", False)]
)
def test_who_has_many_addresses_has_no_more_tries(redis: Redis, address: str, same: bool) -> None:
    for number in range(FAILURES):
        assert count_try(f"guess{number}", "2001:db8:1:2::1") == 0
    assert (count_try("another", address) > 0) is same


def test_when_the_window_is_over_it_may_be_tried_again(browser: Browser, redis: Redis, ann: str) -> None:
    fail(browser)
    assert refused(browser)
    keys = list(redis.scan_iter("accession:logins:*"))
    assert len(keys) == 2
    for key in keys:
        # It began with the first failure, and what is refused does not make it longer.
        assert 880 < redis.ttl(key) <= 900
        redis.expire(key, 0)
    assert not refused(browser)


def test_a_success_clears_the_names_count_and_does_not_count_itself(browser: Browser, ann: str) -> None:
    fail(browser, times=FAILURES - 1)
    assert not refused(browser)
    fail(browser, times=1)
    assert refused(browser)


def test_a_success_does_not_clear_the_addresss_count(browser_on: Open, ann: str, vic: str) -> None:
    """Or whoever has one password could try others' without end."""
    browser = browser_on(address="10.0.0.1")
    fail(browser, "vic", times=FAILURES - 1)
    assert not refused(browser)
    fail(browser, "vic", times=1)
    assert refused(browser)


def test_tries_at_once_are_counted_before_they_are_looked_at(redis: Redis) -> None:
    assert [count_try("ann", f"10.0.0.{number}") > 0 for number in range(7)] == [False] * 5 + [True] * 2


def test_a_success_after_the_end_of_the_window_leaves_no_count_for_ever(redis: Redis) -> None:
    forgive("ann", "10.0.0.1")
    assert list(redis.scan_iter("accession:logins:*")) == []


def test_who_is_in_stays_in_while_others_try(browser_on: Open, ann: str) -> None:
    inside = browser_on(address="10.0.0.1")
    inside.log_in()
    fail(browser_on(address="10.0.0.2"))
    assert inside.get("/who").json()["name"] == "ann"


def test_a_broker_that_is_away_lets_nobody_in_and_is_told_as_such(
    browser: Browser, ann: str, no_broker: None
) -> None:
    answer = browser.log_in()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert alerts(answer.text) == ["The broker does not answer: see `accession doctor`."]


@pytest.fixture
def no_broker(browser: Browser) -> Iterator[None]:
    """While a test lasts this process knows a broker that is none."""
    before = get_settings()
    use_settings(before.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")}))
    yield
    use_settings(before)
