"""What browsers are told to forbid, on every kind of answer."""

import pytest
from sqlalchemy.orm import Session

from tests.fixtures.web_client import Browser, Open, make_token

ALWAYS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}

OPEN_HOUSE = [
    ("GET", "/who", 200),
    ("GET", "/api/v1/who", 200),
    ("GET", "/healthz", 200),
    ("GET", "/login", 303),
    ("POST", "/logout", 303),
    ("GET", "/nowhere", 404),
    ("PUT", "/healthz", 405),
    ("GET", "/static/none.css", 404),
    ("GET", "/api/v1/broken", 500),
    ("GET", "/broken", 500),
]
FOR_STRANGERS = [
    ("GET", "/who", 303),
    ("GET", "/api/v1/who", 401),
    ("GET", "/login", 200),
    ("POST", "/login", 401),
]


def told(browser: Browser, method: str, path: str, status: int) -> dict[str, str | None]:
    answer = browser.request(method, path)
    assert answer.status_code == status, path
    return {name: answer.headers.get(name) for name in ALWAYS}


def test_every_answer_has_the_headers(browser: Browser) -> None:
    for asked in OPEN_HOUSE:
        assert told(browser, *asked) == ALWAYS, asked


def test_so_has_every_refusal(browser: Browser, ann: str) -> None:
    for asked in FOR_STRANGERS:
        assert told(browser, *asked) == ALWAYS, asked
    browser.says = {"Sec-Fetch-Site": "cross-site"}
    assert told(browser, "POST", "/who", 403) == ALWAYS


def test_pictures_styles_and_scripts_may_be_kept_for_a_day(browser: Browser) -> None:
    assert told(browser, "GET", "/static/app.css", 200) == ALWAYS | {"cache-control": "public, max-age=86400"}


def test_a_route_may_say_itself_how_long_its_answer_is_kept(browser: Browser) -> None:
    assert told(browser, "GET", "/picture", 200) == ALWAYS | {"cache-control": "private, max-age=60"}


@pytest.mark.parametrize(
    ("url", "said"), [("https://accession.example", "max-age=31536000"), ("http://accession.example", None)]
)
def test_behind_tls_the_browser_is_told_to_stay_there(
    browser_on: Open, ann: str, url: str, said: str | None
) -> None:
    answer = browser_on(base_url=url).get("/login")
    assert answer.headers.get("strict-transport-security") == said


def test_a_bug_is_told_in_the_form_that_whoever_asks_can_read(browser: Browser, session: Session) -> None:
    sentence = "Something went wrong in Accession: its log says what."
    page = browser.get("/broken")
    assert page.headers["content-type"].startswith("text/html")
    assert sentence in page.text
    for answer in (
        browser.get("/api/v1/broken"),
        browser.get("/broken", headers={"Authorization": f"Bearer {make_token(session)}"}),
    ):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() == {
            "type": "about:blank",
            "title": "Internal Server Error",
            "status": 500,
            "detail": sentence,
        }
