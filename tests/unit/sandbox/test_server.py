"""HTTP interface of the simulated vendor."""

import asyncio
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
from lxml import etree

from accession.core.errors import UserError
from accession.sandbox.catalogue import Catalogue, Purchase
from accession.sandbox.faults import Faults
from accession.sandbox.server import serve
from accession.sandbox.signatures import SANDBOX_ACCOUNT_KEY, SandboxAccount, compute_signature
from accession.sandbox.vendor import Sandbox
from tests.fixtures.running_sandbox import running_sandbox
from tests.fixtures.sandbox import MARC, SINCE, UNTIL, Clock, SandboxClient, item_ids, subfields
from tests.fixtures.waiting import wait_until

ALL = f"startdate={SINCE:%Y-%m-%d}&enddate={UNTIL:%Y-%m-%dT%H:%M:%S}"


def bulk_day(catalogue: Catalogue) -> tuple[str, list[Purchase]]:
    day, _ = Counter(p.purchased_at.date() for p in catalogue.purchases).most_common(1)[0]
    purchases = [p for p in catalogue.purchases if p.purchased_at.date() == day]
    return f"startdate={day}T00:00:00&enddate={day + timedelta(days=1)}T00:00:00", purchases


def usable_purchase(catalogue: Catalogue) -> Purchase:
    return next(p for p in catalogue.purchases if p.is_listed and not p.flaw)


# Authentication


def test_signature_matches_the_vendors_clients() -> None:
    date = "Fri, 01 Jan 2016 00:00:00 GMT"
    assert compute_signature("b", date, "GET", "/cirrus/library/c/some_url") == (
        "HZHNGfn6WVceakGrwXaJQ9zIY0Ai5opGct38j9/bHrE="
    )
    target = (
        "/cirrus/library/library_id/data/cloudevents"
        "?startdate=2024-11-10T10:00:00&enddate=2024-11-11T10:00:00"
    )
    assert compute_signature("account_key", "Mon, 11 Nov 2024 10:00:00 GMT", "get", target) == (
        "KipNmbVsmsT2xPjP4oHAaR3n00JgcszfF6mQRffBoRk="
    )


def test_signed_request_is_accepted(vendor: SandboxClient) -> None:
    response = vendor.get(f"data/marc?{ALL}")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("application/xml")


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "wrong"},
        {"account_id": "library.other"},
        {"clock_offset": timedelta(minutes=-6)},
        {"clock_offset": timedelta(minutes=6)},
    ],
    ids=["key", "account", "late", "early"],
)
def test_wrong_signature_or_clock_is_rejected(vendor: SandboxClient, wrong: dict[str, Any]) -> None:
    response = vendor.get(f"data/marc?{ALL}", **wrong)
    assert (response.status_code, response.content) == (401, b"")


def test_date_header_shows_the_sandbox_clock(catalogue: Catalogue, http: httpx.Client) -> None:
    with running_sandbox(Sandbox(catalogue, clock=Clock(UNTIL))) as running:
        client = SandboxClient(running, http)
        responses = [client.get("items/a"), client.get("items/a", key="wrong"), client.get("no/such/call")]
    assert [response.status_code for response in responses] == [200, 401, 404]
    assert {response.headers["Date"] for response in responses} == {"Thu, 01 Jan 2026 00:00:00 GMT"}


@pytest.mark.parametrize("minutes", [-4, 4])
def test_small_clock_difference_is_accepted(vendor: SandboxClient, minutes: int) -> None:
    assert vendor.get(f"data/marc?{ALL}", clock_offset=timedelta(minutes=minutes)).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"3mcl-Datetime": "yesterday", "3mcl-Authorization": "3MCLAUTH a:b"}]
)
def test_unsigned_request_is_rejected(vendor: SandboxClient, headers: dict[str, str]) -> None:
    url = f"{vendor.running.base_url}/cirrus/library/sandbox/data/marc?{ALL}"
    assert vendor.http.get(url, headers=headers).status_code == 401


def test_other_library_is_not_found(vendor: SandboxClient) -> None:
    response = vendor.get(f"data/marc?{ALL}", library_id="other")
    assert response.status_code == 404
    assert etree.fromstring(response.content).tag == "Error"


def test_configured_account_replaces_the_default(catalogue: Catalogue, http: httpx.Client) -> None:
    account = SandboxAccount("elsewhere", "library.elsewhere", "other-key")
    with running_sandbox(Sandbox(catalogue, account)) as running:
        client = SandboxClient(running, http)
        assert client.get(f"data/marc?{ALL}").status_code == 200
        assert client.get(f"data/marc?{ALL}", key=SANDBOX_ACCOUNT_KEY).status_code == 401
    assert "other-key" not in repr(account)


# Purchase records


def test_pages_of_all_windows_contain_every_purchase(vendor: SandboxClient, catalogue: Catalogue) -> None:
    records_by_id: Counter[str] = Counter()
    years = [SINCE.replace(year=year) for year in range(SINCE.year, UNTIL.year + 1)]
    for start, end in pairwise(years):
        offset = 1
        window = f"startdate={start:%Y-%m-%dT%H:%M:%S}&enddate={end:%Y-%m-%dT%H:%M:%S}"
        while records := vendor.records(f"{window}&offset={offset}&limit=50"):
            records_by_id.update(subfields(record, "037", "a")[0] for record in records)
            offset += len(records)
    assert records_by_id == Counter(p.item_id for p in catalogue.purchases)


def test_bulk_day_has_several_pages(vendor: SandboxClient, catalogue: Catalogue) -> None:
    window, purchases = bulk_day(catalogue)
    sizes = [len(vendor.records(f"{window}&offset={offset}&limit=50")) for offset in range(1, 302, 50)]
    assert sum(sizes) == len(purchases) > 100
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[:2] == [50, 50]
    assert len(vendor.records(f"{window}&offset={len(purchases)}")) == 1
    assert len(vendor.records(f"{window}&offset={len(purchases) + 1}")) == 0


def test_page_has_at_most_fifty_records(vendor: SandboxClient) -> None:
    assert len(vendor.records(f"{ALL}&limit=500")) == 50
    assert len(vendor.records(ALL)) == 50
    assert len(vendor.records(f"{ALL}&limit=3")) == 3


def test_window_without_end_reaches_last_purchase(vendor: SandboxClient, catalogue: Catalogue) -> None:
    last = catalogue.purchases[-1]
    records = vendor.records(f"startdate={last.purchased_at:%Y-%m-%dT%H:%M:%S}Z")
    assert [subfields(record, "037", "a") for record in records] == [[last.item_id]]


def test_window_from_year_one_is_served(vendor: SandboxClient) -> None:
    assert len(vendor.records("startdate=0001-01-01")) == 50


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (f"{ALL}&offset=0", "offset must be at least 1"),
        (f"{ALL}&offset=-3", "offset must be at least 1"),
        (f"{ALL}&limit=many", "limit must be at least 1"),
        ("enddate=2020-01-01", "startdate is missing"),
        ("startdate=soon", "startdate is not a date"),
    ],
)
def test_invalid_parameters_give_an_error_document(vendor: SandboxClient, query: str, reason: str) -> None:
    response = vendor.get(f"data/marc?{query}")
    assert response.status_code == 400
    assert etree.fromstring(response.content).findtext("Message") == reason


def test_window_excludes_its_end_unless_configured(catalogue: Catalogue, http: httpx.Client) -> None:
    edge = catalogue.purchases[3].purchased_at
    window = f"startdate=2000-01-01&enddate={edge:%Y-%m-%dT%H:%M:%S}"
    before = sum(p.purchased_at < edge for p in catalogue.purchases)
    up_to_edge = sum(p.purchased_at <= edge for p in catalogue.purchases)
    with (
        running_sandbox(Sandbox(catalogue)) as strict,
        running_sandbox(Sandbox(catalogue, end_included=True)) as wide,
    ):
        assert len(SandboxClient(strict, http).records(window)) == before
        assert len(SandboxClient(wide, http).records(window)) == up_to_edge > before


def test_record_is_found_by_id(vendor: SandboxClient, catalogue: Catalogue) -> None:
    purchase = usable_purchase(catalogue)
    [record] = vendor.documents(f"data/marc/{purchase.item_id}").findall(f"{MARC}record")
    assert item_ids(record) == [purchase.item_id]
    assert len(vendor.documents("data/marc/nothere")) == 0


# Items and events


def test_items_returns_listed_titles_only(vendor: SandboxClient, catalogue: Catalogue) -> None:
    listed = [p.item_id for p in catalogue.purchases if p.is_listed][:20]
    unlisted = next(p.item_id for p in catalogue.purchases if not p.is_listed)
    items = vendor.items(*listed, unlisted, "nothere", listed[0])
    assert [item.findtext("ItemId") for item in items] == listed
    assert vendor.items("nothere") == []


def test_items_rejects_more_than_twenty_five_ids(vendor: SandboxClient, catalogue: Catalogue) -> None:
    ids = [p.item_id for p in catalogue.purchases]
    assert vendor.get(f"items/{','.join(ids[:25])}").status_code == 200
    response = vendor.get(f"items/{','.join(ids[:26])}")
    assert response.status_code == 400
    assert etree.fromstring(response.content).tag == "Error"


def test_events_without_activity_are_an_empty_batch(vendor: SandboxClient) -> None:
    batch = vendor.documents("data/cloudevents?startdate=2024-11-10T10:00:00")
    assert (batch.tag, len(batch)) == ("LibraryEventBatch", 0)


def test_removed_title_remains_in_window_only(faulty_vendor: SandboxClient, catalogue: Catalogue) -> None:
    purchase = usable_purchase(catalogue)
    base_url = faulty_vendor.running.base_url
    moment = purchase.purchased_at
    window = f"startdate={moment:%Y-%m-%dT%H:%M:%S}&enddate={moment + timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}"
    assert faulty_vendor.http.post(f"{base_url}/sandbox/remove/{purchase.item_id}").status_code == 204
    assert faulty_vendor.items(purchase.item_id) == []
    assert len(faulty_vendor.documents(f"data/marc/{purchase.item_id}")) == 0
    assert [purchase.item_id] in [item_ids(record) for record in faulty_vendor.records(window)]
    assert faulty_vendor.http.post(f"{base_url}/sandbox/remove/nothere").status_code == 404


# Faults


def test_gateway_faults_have_their_status(faulty_vendor: SandboxClient) -> None:
    for spec, status, retry_after in [
        ("bad-gateway=1", 502, None),
        ("unavailable=1", 503, "1"),
        ("too-many=1", 429, "1"),
        ("error-500=1", 500, None),
    ]:
        faulty_vendor.set_faults(spec)
        response = faulty_vendor.get(f"data/marc?{ALL}")
        assert (response.status_code, response.headers.get("Retry-After")) == (status, retry_after)


def test_retry_after_is_configurable(catalogue: Catalogue, http: httpx.Client) -> None:
    faults = Faults.parse("unavailable=1")
    with running_sandbox(Sandbox(catalogue, faults=faults, retry_after_seconds=0)) as running:
        assert SandboxClient(running, http).get("items/a").headers["Retry-After"] == "0"


def test_error_document_500_has_status_500(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("error-document-500=1")
    response = faulty_vendor.get("items/a")
    assert response.status_code == 500
    assert etree.fromstring(response.content).findtext("Message") in (
        "Unknown error",
        "Authentication failed",
    )


def test_error_documents_alternate_both_messages(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("error-document=1")
    responses = [faulty_vendor.documents("items/a") for _ in range(2)]
    assert {response.findtext("Message") for response in responses} == {
        "Unknown error",
        "Authentication failed",
    }


def test_html_fault_has_status_200(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("html=1")
    response = faulty_vendor.get(f"data/marc?{ALL}")
    assert response.status_code == 200
    assert response.text.startswith("<html>")


ENDPOINTS = [f"data/marc?{ALL}", "data/marc/a", "items/a", "data/cloudevents"]


@pytest.mark.parametrize("path", ENDPOINTS, ids=["marc", "record", "items", "cloudevents"])
def test_blank_fault_applies_to_every_endpoint(faulty_vendor: SandboxClient, path: str) -> None:
    faulty_vendor.set_faults("blank=1")
    responses = [faulty_vendor.get(path) for _ in range(3)]
    assert [(response.status_code, response.content) for response in responses] == [(200, b"")] * 3


def test_blank_fault_has_its_share_for_one_url(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("blank=0.3")
    blank = [faulty_vendor.get(f"data/marc?{ALL}&limit=1").content == b"" for _ in range(200)]
    assert sum(blank) / 200 == pytest.approx(0.3, abs=0.1)
    assert (True, True) in pairwise(blank)


@pytest.fixture
def bursts(catalogue: Catalogue, http: httpx.Client) -> Iterator[tuple[SandboxClient, Clock]]:
    """A sandbox in which every request starts a burst of empty bodies, and its clock."""
    clock = Clock(UNTIL)
    sandbox = Sandbox(catalogue, faults=Faults.parse("blank-burst=1,bad-gateway=1"), clock=clock)
    with running_sandbox(sandbox) as running:
        yield SandboxClient(running, http), clock


def test_burst_of_blank_bodies_lasts_a_minute(bursts: tuple[SandboxClient, Clock]) -> None:
    client, clock = bursts
    assert client.get("items/a").content == b""
    client.set_faults("blank-burst=0")
    for seconds in (0, 30, 59):
        clock.now = UNTIL + timedelta(seconds=seconds)
        assert [client.get(path).content for path in ENDPOINTS] == [b""] * 4
    clock.now = UNTIL + timedelta(minutes=1)
    assert all(client.get(path).content for path in ENDPOINTS)
    assert client.running.statistics()["faults"] == {"blank-burst": 1, "blank": 13}


def test_burst_is_not_prolonged_by_further_requests(bursts: tuple[SandboxClient, Clock]) -> None:
    client, clock = bursts
    for seconds in (0, 50, 59, 60, 119, 120):
        clock.now = UNTIL + timedelta(seconds=seconds)
        assert client.get("items/a").content == b""
    assert client.running.statistics()["faults"] == {"blank-burst": 3, "blank": 6}


def test_burst_ends_when_the_fault_is_replaced(bursts: tuple[SandboxClient, Clock]) -> None:
    client, _ = bursts
    assert client.get("items/a").content == b""
    client.set_faults("")
    assert client.get("items/a").content


def test_empty_window_can_be_blank_every_time(faulty_vendor: SandboxClient) -> None:
    empty_window = "data/marc?startdate=1999-01-01&enddate=1999-01-02"
    assert len(faulty_vendor.documents(empty_window)) == 0
    faulty_vendor.set_faults("blank-when-empty=1")
    assert [faulty_vendor.get(empty_window).content for _ in range(2)] == [b"", b""]
    assert faulty_vendor.records(ALL)


def test_truncated_response_is_valid_http_and_broken_xml(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("truncated=1")
    response = faulty_vendor.get(f"data/marc?{ALL}")
    assert int(response.headers["Content-Length"]) == len(response.content) > 0
    with pytest.raises(etree.XMLSyntaxError):
        etree.fromstring(response.content)


def test_drop_fault_closes_connection_in_body(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("drop=1")
    with pytest.raises(httpx.RemoteProtocolError, match="closed connection"):
        faulty_vendor.get(f"data/marc?{ALL}")


def test_long_length_fault_announces_too_many_bytes(faulty_vendor: SandboxClient) -> None:
    body = faulty_vendor.get("items/a").content
    faulty_vendor.set_faults("long-length=1")
    with pytest.raises(httpx.RemoteProtocolError, match=rf"received {len(body)} bytes, expected"):
        faulty_vendor.get("items/a")


def test_short_length_fault_announces_half_the_body(faulty_vendor: SandboxClient) -> None:
    body = faulty_vendor.get("items/a").content
    faulty_vendor.set_faults("short-length=1")
    half = faulty_vendor.get("items/a").content
    assert body.startswith(half)
    assert len(half) == len(body) // 2
    request = faulty_vendor.request("items/a")
    lines = [f"GET {request.url.raw_path.decode()} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    with socket.create_connection((request.url.host, request.url.port or 0), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        received = b""
        while not received.endswith(body[-len(half) :]):
            received += connection.recv(65_536)
    head, _, received_body = received.partition(b"\r\n\r\n")
    assert f"content-length: {len(half)}".encode() in head.lower()
    assert received_body == body


def test_gzip_plain_fault_is_not_gzip(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("gzip-plain=1")
    with pytest.raises(httpx.DecodingError):
        faulty_vendor.get("items/a")


def test_gzip_cut_fault_has_no_content(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("gzip-cut=1")
    response = faulty_vendor.get(f"data/marc?{ALL}")
    assert int(response.headers["Content-Length"]) > 0
    assert response.content == b""


def test_silent_fault_never_responds(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("silent=1")
    with pytest.raises(httpx.ReadTimeout):
        faulty_vendor.get("items/a", timeout_seconds=0.1)
    faulty_vendor.set_faults("")
    assert faulty_vendor.get("items/a").status_code == 200


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_open_endless_responses_do_not_block_shutdown(
    catalogue: Catalogue, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    with httpx.Client() as client, ThreadPoolExecutor(1) as threads:
        with running_sandbox(Sandbox(catalogue, faults=Faults.parse(f"{fault}=1"))) as running:
            waiting = threads.submit(SandboxClient(running, client).get, "items/a")
            wait_until(lambda: running.statistics()["faults"])
        assert waiting.exception(10) or waiting.result().status_code == 500
    assert "Exception" not in caplog.text


@pytest.mark.parametrize(("fault", "min_bytes"), [("drip", 100), ("endless", 25_000_000)])
def test_endless_faults_continue_after_the_document(
    faulty_vendor: SandboxClient, fault: str, min_bytes: int
) -> None:
    body = faulty_vendor.get("items/a").content
    faulty_vendor.set_faults(f"{fault}=1")
    received = bytearray()
    with closing(faulty_vendor.http.send(faulty_vendor.request("items/a"), stream=True)) as response:
        for chunk in response.iter_bytes():
            received += chunk
            if len(received) > min_bytes:
                break
    assert received.rstrip() == body


def test_oversized_fault_exceeds_twenty_megabytes(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("oversized=1")
    response = faulty_vendor.get(f"data/marc?{ALL}")
    assert int(response.headers["Content-Length"]) == len(response.content) > 20 * 1024 * 1024
    assert len(etree.fromstring(response.content.rstrip())) == 50


def test_redirect_fault_leads_to_another_path(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("redirect=1")
    response = faulty_vendor.get(f"data/marc?{ALL}")
    assert (response.status_code, response.headers["Location"]) == (302, "/maintenance")


def test_entities_fault_uses_undefined_entities(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("entities=1")
    assert "&ldquo;" in faulty_vendor.get(f"data/marc?{ALL}").text


def test_double_escape_fault_escapes_items_twice(faulty_vendor: SandboxClient, catalogue: Catalogue) -> None:
    purchase = next(p for p in catalogue.purchases if p.is_listed and "'" in p.work.title)
    faulty_vendor.set_faults("double-escape=1")
    [item] = faulty_vendor.items(purchase.item_id)
    assert item.findtext("Title") == purchase.work.title.replace("'", "&#x27;")


def test_repeat_edge_fault_includes_window_end(faulty_vendor: SandboxClient, catalogue: Catalogue) -> None:
    edge = catalogue.purchases[3].purchased_at
    window = f"startdate=2000-01-01&enddate={edge:%Y-%m-%dT%H:%M:%S}"
    usual = len(faulty_vendor.records(window))
    faulty_vendor.set_faults("repeat-edge=1")
    assert len(faulty_vendor.records(window)) > usual


def test_repeat_page_fault_returns_previous_page(faulty_vendor: SandboxClient, catalogue: Catalogue) -> None:
    window, _ = bulk_day(catalogue)
    faulty_vendor.set_faults("repeat-page=1")
    first, second = (
        [subfields(record, "037", "a") for record in faulty_vendor.records(f"{window}&offset={offset}")]
        for offset in (1, 51)
    )
    assert first == second


def test_slow_fault_delays_a_complete_response(
    faulty_vendor: SandboxClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []

    async def record_delay(seconds: float) -> None:
        delays.append(seconds)

    monkeypatch.setattr("accession.sandbox.vendor.sleep", record_delay)
    faulty_vendor.set_faults("slow=1")
    assert len(faulty_vendor.records(ALL)) == 50
    assert delays == [0.03]


def test_invalid_specification_is_explained_and_ignored(faulty_vendor: SandboxClient) -> None:
    faulty_vendor.set_faults("html=1")
    response = faulty_vendor.http.post(f"{faulty_vendor.running.base_url}/sandbox/faults", content="storm=1")
    assert response.status_code == 400
    assert "bad-gateway" in response.text
    assert faulty_vendor.get(f"data/marc?{ALL}").text.startswith("<html>")


def test_latency_of_concurrent_requests_overlaps(
    catalogue: Catalogue, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_waiting = asyncio.Barrier(8)

    async def wait_for_the_others(seconds: float) -> None:
        assert seconds == 0.2
        await all_waiting.wait()

    monkeypatch.setattr("accession.sandbox.vendor.sleep", wait_for_the_others)
    with running_sandbox(Sandbox(catalogue, latency_ms=200)) as running:
        client = SandboxClient(running, http)
        with ThreadPoolExecutor(8) as threads:
            responses = list(threads.map(lambda n: client.get(f"items/a{n}", timeout_seconds=60), range(8)))
    assert {response.status_code for response in responses} == {200}


# Statistics


def test_statistics_count_purchases_and_requests(faulty_vendor: SandboxClient, catalogue: Catalogue) -> None:
    faulty_vendor.get(f"data/marc?{ALL}")
    faulty_vendor.get("data/marc/a")
    faulty_vendor.get("items/a")
    faulty_vendor.get("items/a", key="wrong")
    faulty_vendor.get("data/cloudevents")
    faulty_vendor.set_faults("bad-gateway=1,entities=1")
    faulty_vendor.get(f"data/marc?{ALL}")
    statistics = faulty_vendor.http.get(f"{faulty_vendor.running.base_url}/sandbox/statistics").json()
    assert statistics == faulty_vendor.running.statistics()
    assert statistics["titles_purchased"] == len(catalogue) == 600
    assert statistics["unusable_records"] == catalogue.unusable == 3
    assert statistics["usable_titles"] == 597
    assert (statistics["late_records"], statistics["withdrawn_records"]) == (0, 0)
    assert statistics["requests"] == {"marc": 2, "record": 1, "items": 1, "cloudevents": 1, "rejected": 1}
    assert statistics["faults"]["bad-gateway"] == 1


def test_titles_endpoint_lists_purchases_in_order(vendor: SandboxClient) -> None:
    titles = vendor.http.get(f"{vendor.running.base_url}/sandbox/titles").json()
    purchases = vendor.running.catalogue.purchases
    assert [title["id"] for title in titles] == [p.item_id for p in purchases]
    assert [title["purchased_at"] for title in titles] == [p.purchased_at.isoformat() for p in purchases]
    assert sum(not title["usable"] for title in titles) == 3
    assert sum(not title["listed"] for title in titles) == 1
    assert all(title["has_record"] for title in titles)
    assert sum(title["available"] > title["copies"] for title in titles) == 1


# Server


def test_used_port_is_explained(vendor: SandboxClient) -> None:
    port = httpx.URL(vendor.running.base_url).port or 0
    with pytest.raises(UserError, match=f"cannot listen on port {port}.*another port"):
        serve(port, vendor.running.sandbox, ready=lambda _base_url: None)


def test_served_sandbox_prints_url_and_stops_on_sigint(http: httpx.Client) -> None:
    program = (
        "from datetime import UTC, datetime\n"
        "from accession.sandbox.catalogue import build_catalogue\n"
        "from accession.sandbox.server import Sandbox, serve\n"
        "first, last = (datetime(year, 1, 1, tzinfo=UTC) for year in (2024, 2025))\n"
        "serve(0, Sandbox(build_catalogue(5, first, last)), lambda base_url: print(base_url, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        base_url = process.stdout.readline().strip()
        assert http.get(f"{base_url}/sandbox/statistics").json()["titles_purchased"] == 5
        process.send_signal(2)
        assert process.wait(10) == 0
