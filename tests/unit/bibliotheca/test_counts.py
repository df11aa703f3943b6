"""Each request is told to whoever counts: of which endpoint, how it ended, and how long it took."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr

from accession.accounts.account import Account
from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import RemoteIntegrationException
from tests.fixtures.factories import NOON
from tests.fixtures.vendor import error_document, event_batch, item, marc, marc_page

ACCOUNT = Account("Alder Library", "alder", "library.alder", SecretStr("key"), "http://127.0.0.1:9")
MARC_PAGE = marc_page([marc("abc")])


@pytest.fixture
def counted() -> list[tuple[str, str, float]]:
    return []


@pytest.fixture
def asking(counted: list[tuple[str, str, float]]) -> Callable[..., BibliothecaAPI]:
    """A vendor that answers so, one answer a request."""

    def api(*answers: httpx.Response | Exception) -> BibliothecaAPI:
        left = deque(answers)

        def answer(_: httpx.Request) -> httpx.Response:
            if isinstance(left[0], Exception):
                raise left.popleft()  # type: ignore[misc]
            return left.popleft()  # type: ignore[return-value]

        http = httpx.Client(transport=httpx.MockTransport(answer))
        return BibliothecaAPI(ACCOUNT, http, count=lambda *request: counted.append(request))

    return api


def ok(text: str) -> httpx.Response:
    return httpx.Response(200, text=text)


def test_each_endpoint_has_its_word(
    asking: Callable[..., BibliothecaAPI], counted: list[tuple[str, str, float]]
) -> None:
    api = asking(
        ok(MARC_PAGE), ok(MARC_PAGE), ok(event_batch([])), ok(f"<ArrayOfItem>{item('a')}</ArrayOfItem>")
    )
    api.marc_page(NOON, NOON + timedelta(days=1))
    api.marc_body(NOON, NOON + timedelta(days=1))
    api.events(NOON, NOON + timedelta(minutes=5))
    api.items(["a"])

    assert [(endpoint, outcome) for endpoint, outcome, _ in counted] == [
        ("marc", "ok"),
        ("marc", "ok"),
        ("cloudevents", "ok"),
        ("items", "ok"),
    ]
    assert all(0 < seconds < 10 for _, _, seconds in counted)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
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
        (httpx.RemoteProtocolError("gone"), "connection"),
    ],
)
def test_each_class_of_error_has_its_word_and_connections_have_their_own(
    asking: Callable[..., BibliothecaAPI],
    counted: list[tuple[str, str, float]],
    monkeypatch: pytest.MonkeyPatch,
    answer: httpx.Response | Exception,
    outcome: str,
) -> None:
    monkeypatch.setattr("accession.bibliotheca.client.ASK_AGAIN_TIMES", 0)
    with suppress(RemoteIntegrationException):
        asking(answer).marc_page(NOON, NOON + timedelta(days=1))

    assert [(endpoint, outcome) for endpoint, outcome, _ in counted] == [("marc", outcome)]


def test_a_request_that_is_made_again_counts_again(
    asking: Callable[..., BibliothecaAPI], counted: list[tuple[str, str, float]]
) -> None:
    asking(httpx.Response(502), ok(""), ok("")).marc_page(NOON, NOON + timedelta(days=1))

    assert [outcome for _, outcome, _ in counted] == ["bad_response", "ok", "ok"]


def test_an_error_of_our_own_has_no_word_and_rises(
    asking: Callable[..., BibliothecaAPI], counted: list[tuple[str, str, float]]
) -> None:
    with pytest.raises(ZeroDivisionError):
        asking(ZeroDivisionError()).items(["a"])
    assert counted == []
