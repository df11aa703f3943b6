"""Each request is reported with its endpoint, outcome and duration."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import httpx
import pytest

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import RemoteIntegrationException
from tests.fixtures.bibliotheca import ACCOUNT
from tests.fixtures.factories import NOON
from tests.fixtures.vendor import error_document, event_batch, item, marc, marc_page

MARC_PAGE = marc_page([marc("abc")])

Counted = list[tuple[str, str, float]]
MakeAPI = Callable[..., BibliothecaAPI]


@pytest.fixture
def counted() -> Counted:
    """The reported requests."""
    return []


@pytest.fixture
def api_with_responses(counted: Counted) -> MakeAPI:
    """Make an API whose vendor sends the given responses, one per request, and raises exceptions."""

    def make(*responses: httpx.Response | Exception) -> BibliothecaAPI:
        remaining = deque(responses)

        def respond(_: httpx.Request) -> httpx.Response:
            response = remaining.popleft()
            if isinstance(response, Exception):
                raise response
            return response

        return BibliothecaAPI(
            ACCOUNT, httpx.MockTransport(respond), count_request=lambda *request: counted.append(request)
        )

    return make


def ok(text: str) -> httpx.Response:
    return httpx.Response(200, text=text)


def test_request_is_counted_by_endpoint(api_with_responses: MakeAPI, counted: Counted) -> None:
    api = api_with_responses(
        ok(MARC_PAGE), ok(MARC_PAGE), ok(event_batch([])), ok(f"<ArrayOfItem>{item('a')}</ArrayOfItem>")
    )
    api.fetch_marc_page(NOON, NOON + timedelta(days=1))
    api.fetch_marc_body(NOON, NOON + timedelta(days=1))
    api.fetch_events(NOON, NOON + timedelta(minutes=5))
    api.fetch_items(["a"])

    assert [(endpoint, outcome) for endpoint, outcome, _ in counted] == [
        ("marc", "ok"),
        ("marc", "ok"),
        ("cloudevents", "ok"),
        ("items", "ok"),
    ]


def test_duration_excludes_the_wait_for_a_slot(monkeypatch: pytest.MonkeyPatch, counted: Counted) -> None:
    now = 0.0
    monkeypatch.setattr("accession.bibliotheca.client.perf_counter", lambda: now)

    @contextmanager
    def request_slot() -> Iterator[None]:
        nonlocal now
        now += 60
        yield

    def respond(_: httpx.Request) -> httpx.Response:
        nonlocal now
        now += 3.5
        return ok(MARC_PAGE)

    api = BibliothecaAPI(
        ACCOUNT,
        httpx.MockTransport(respond),
        request_slot=request_slot,
        count_request=lambda *request: counted.append(request),
    )
    api.fetch_marc_page(NOON, NOON + timedelta(days=1))

    assert [seconds for _, _, seconds in counted] == [3.5]


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (httpx.Response(400), "refused"),
        (httpx.Response(401), "refused"),
        (httpx.Response(404), "refused"),
        (httpx.Response(502), "bad_response"),
        (httpx.Response(429), "bad_response"),
        (ok("<html>maintenance</html>"), "bad_response"),
        (ok(MARC_PAGE[:-20]), "bad_response"),
        (ok(error_document("failed")), "server_error"),
        (httpx.Response(500, text=error_document("failed")), "server_error"),
        (httpx.ReadTimeout("slow"), "timeout"),
        (httpx.ConnectTimeout("slow"), "timeout"),
        (httpx.ConnectError("refused"), "connection"),
        (httpx.ReadError("reset"), "connection"),
        (httpx.RemoteProtocolError("closed"), "connection"),
    ],
)
def test_failed_request_is_counted_by_kind_of_error(
    api_with_responses: MakeAPI,
    counted: Counted,
    monkeypatch: pytest.MonkeyPatch,
    response: httpx.Response | Exception,
    outcome: str,
) -> None:
    monkeypatch.setattr("accession.bibliotheca.client.IMMEDIATE_RETRIES", 0)
    with suppress(RemoteIntegrationException):
        api_with_responses(response).fetch_marc_page(NOON, NOON + timedelta(days=1))

    assert [(endpoint, outcome) for endpoint, outcome, _ in counted] == [("marc", outcome)]


def test_retried_request_is_counted_again(api_with_responses: MakeAPI, counted: Counted) -> None:
    api_with_responses(httpx.Response(502), ok("")).fetch_marc_page(NOON, NOON + timedelta(days=1))

    assert [outcome for _, outcome, _ in counted] == ["bad_response", "ok"]


def test_empty_body_of_span_with_purchases_is_no_success(
    api_with_responses: MakeAPI, counted: Counted
) -> None:
    api = api_with_responses(ok(""), ok(marc_page([marc("abc")])))

    api.fetch_marc_page(NOON, NOON + timedelta(days=1), may_be_empty=False)

    assert [outcome for _, outcome, _ in counted] == ["server_error", "ok"]


def test_unexpected_exception_is_not_counted(api_with_responses: MakeAPI, counted: Counted) -> None:
    with pytest.raises(ZeroDivisionError):
        api_with_responses(ZeroDivisionError()).fetch_items(["a"])
    assert counted == []
