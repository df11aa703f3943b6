"""Security headers on every kind of response."""

import pytest
from sqlalchemy.orm import Session

from tests.fixtures.web_client import Browser, OpenBrowser, bearer, make_token

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; frame-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}

REQUESTS_WITHOUT_USERS = [
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
REQUESTS_WITHOUT_LOGIN = [
    ("GET", "/who", 303),
    ("GET", "/api/v1/who", 401),
    ("GET", "/login", 200),
    ("POST", "/login", 401),
]


def headers_of(browser: Browser, method: str, path: str, status: int) -> dict[str, str | None]:
    response = browser.request(method, path)
    assert response.status_code == status, path
    return {name: response.headers.get(name) for name in SECURITY_HEADERS}


def test_every_response_has_security_headers(browser: Browser) -> None:
    for method, path, status in REQUESTS_WITHOUT_USERS:
        assert headers_of(browser, method, path, status) == SECURITY_HEADERS, path


def test_every_rejected_request_gets_security_headers(browser: Browser, ann: str) -> None:
    for method, path, status in REQUESTS_WITHOUT_LOGIN:
        assert headers_of(browser, method, path, status) == SECURITY_HEADERS, path
    browser.headers = {"Sec-Fetch-Site": "cross-site"}
    assert headers_of(browser, "POST", "/who", 403) == SECURITY_HEADERS


def test_static_file_is_cacheable_for_a_day(browser: Browser) -> None:
    expected = SECURITY_HEADERS | {"cache-control": "public, max-age=86400"}
    assert headers_of(browser, "GET", "/static/app.css", 200) == expected


def test_route_can_set_its_own_cache_control(browser: Browser) -> None:
    expected = SECURITY_HEADERS | {"cache-control": "private, max-age=60"}
    assert headers_of(browser, "GET", "/picture", 200) == expected


@pytest.mark.parametrize(
    ("url", "hsts"), [("https://accession.example", "max-age=31536000"), ("http://accession.example", None)]
)
def test_response_over_tls_has_hsts_header(
    open_browser: OpenBrowser, ann: str, url: str, hsts: str | None
) -> None:
    response = open_browser(base_url=url).get("/login")
    assert response.headers.get("strict-transport-security") == hsts


def test_unexpected_error_is_html_page_or_problem_document(browser: Browser, session: Session) -> None:
    detail = "Internal error: see the log of Accession's web server for details."
    page = browser.get("/broken")
    assert page.headers["content-type"].startswith("text/html")
    assert detail.replace("'", "&#39;") in page.text
    for response in (
        browser.get("/api/v1/broken"),
        browser.get("/broken", headers=bearer(make_token(session))),
    ):
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json() == {
            "type": "about:blank",
            "title": "Internal Server Error",
            "status": 500,
            "detail": detail,
        }
