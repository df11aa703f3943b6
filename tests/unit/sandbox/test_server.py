"""The stand-in vendor over real HTTP."""

import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from email.utils import parsedate_to_datetime
from itertools import pairwise
from time import perf_counter

import httpx
import pytest
from lxml import etree

from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.sandbox.catalogue import Catalogue, Purchase
from accession.sandbox.faults import Faults
from accession.sandbox.server import (
    SANDBOX_ACCOUNT_KEY,
    Sandbox,
    SandboxAccount,
    running_sandbox,
    serve,
    signature,
)
from tests.fixtures.machine import eventually
from tests.fixtures.sandbox import MARC, SINCE, UNTIL, Caller, Clock, item_ids, subfields

ALL = f"startdate={SINCE:%Y-%m-%d}&enddate={UNTIL:%Y-%m-%dT%H:%M:%S}"


def big_day(catalogue: Catalogue) -> tuple[str, list[Purchase]]:
    day, _ = Counter(p.purchased_at.date() for p in catalogue.purchases).most_common(1)[0]
    bought = [p for p in catalogue.purchases if p.purchased_at.date() == day]
    return f"startdate={day}T00:00:00&enddate={day + timedelta(days=1)}T00:00:00", bought


def purchase_of_a_usual_kind(catalogue: Catalogue) -> Purchase:
    return next(p for p in catalogue.purchases if p.listed and not p.flaw)


# Who may ask


def test_signatures_are_those_of_the_vendors_clients() -> None:
    date = "Fri, 01 Jan 2016 00:00:00 GMT"
    assert signature("b", date, "GET", "/cirrus/library/c/some_url") == (
        "HZHNGfn6WVceakGrwXaJQ9zIY0Ai5opGct38j9/bHrE="
    )
    target = (
        "/cirrus/library/library_id/data/cloudevents"
        "?startdate=2024-11-10T10:00:00&enddate=2024-11-11T10:00:00"
    )
    assert signature("account_key", "Mon, 11 Nov 2024 10:00:00 GMT", "get", target) == (
        "KipNmbVsmsT2xPjP4oHAaR3n00JgcszfF6mQRffBoRk="
    )


def test_a_rightly_signed_request_is_answered(vendor: Caller) -> None:
    answer = vendor.get(f"data/marc?{ALL}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/xml")


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "wrong"},
        {"account_id": "library.other"},
        {"at": utc_now() - timedelta(minutes=6)},
        {"at": utc_now() + timedelta(minutes=20)},
    ],
    ids=["key", "account", "late", "early"],
)
def test_a_wrong_signature_or_clock_is_refused_without_a_word(vendor: Caller, wrong: dict[str, str]) -> None:
    answer = vendor.get(f"data/marc?{ALL}", **wrong)  # type: ignore[arg-type]
    assert (answer.status_code, answer.content) == (401, b"")
    assert abs(parsedate_to_datetime(answer.headers["Date"]) - utc_now()) < timedelta(seconds=30)


def test_answers_are_dated_by_the_clock_that_signatures_are_checked_against(
    catalogue: Catalogue, http: httpx.Client
) -> None:
    with running_sandbox(Sandbox(catalogue, clock=Clock(UNTIL))) as running:
        caller = Caller(running, http)
        answers = [caller.get("items/a"), caller.get("items/a", key="wrong"), caller.get("no/such/call")]
    assert [answer.status_code for answer in answers] == [200, 401, 404]
    assert {answer.headers["Date"] for answer in answers} == {"Thu, 01 Jan 2026 00:00:00 GMT"}


@pytest.mark.parametrize("minutes", [-4, 4])
def test_a_clock_a_little_off_is_borne(vendor: Caller, minutes: int) -> None:
    assert vendor.get(f"data/marc?{ALL}", at=utc_now() + timedelta(minutes=minutes)).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"3mcl-Datetime": "yesterday", "3mcl-Authorization": "3MCLAUTH a:b"}]
)
def test_an_unsigned_request_is_refused(vendor: Caller, headers: dict[str, str]) -> None:
    url = f"{vendor.running.base_url}/cirrus/library/sandbox/data/marc?{ALL}"
    assert vendor.http.get(url, headers=headers).status_code == 401


def test_another_library_is_not_found(vendor: Caller) -> None:
    answer = vendor.get(f"data/marc?{ALL}", library_id="other")
    assert answer.status_code == 404
    assert etree.fromstring(answer.content).tag == "Error"


def test_an_account_of_ones_own_is_the_only_one_that_counts(catalogue: Catalogue, http: httpx.Client) -> None:
    account = SandboxAccount("elsewhere", "library.elsewhere", "other-key")
    with running_sandbox(Sandbox(catalogue, account)) as running:
        caller = Caller(running, http)
        assert caller.get(f"data/marc?{ALL}").status_code == 200
        assert caller.get(f"data/marc?{ALL}", key=SANDBOX_ACCOUNT_KEY).status_code == 401
    assert "other-key" not in repr(account)


# Purchase records


def test_pages_of_every_window_sum_up_to_what_was_bought(vendor: Caller, catalogue: Catalogue) -> None:
    found: Counter[str] = Counter()
    years = [SINCE.replace(year=year) for year in range(SINCE.year, UNTIL.year + 1)]
    for start, end in pairwise(years):
        offset = 1
        window = f"startdate={start:%Y-%m-%dT%H:%M:%S}&enddate={end:%Y-%m-%dT%H:%M:%S}"
        while records := vendor.records(f"{window}&offset={offset}&limit=50"):
            found.update(subfields(record, "037", "a")[0] for record in records)
            offset += len(records)
    assert found == Counter(p.item_id for p in catalogue.purchases)


def test_a_big_day_has_several_pages_and_a_short_last_one(vendor: Caller, catalogue: Catalogue) -> None:
    window, bought = big_day(catalogue)
    sizes = [len(vendor.records(f"{window}&offset={offset}&limit=50")) for offset in range(1, 302, 50)]
    assert sum(sizes) == len(bought) > 100
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[:2] == [50, 50]
    assert len(vendor.records(f"{window}&offset={len(bought)}")) == 1
    assert len(vendor.records(f"{window}&offset={len(bought) + 1}")) == 0


def test_a_page_never_holds_more_than_fifty(vendor: Caller) -> None:
    assert len(vendor.records(f"{ALL}&limit=500")) == 50
    assert len(vendor.records(ALL)) == 50
    assert len(vendor.records(f"{ALL}&limit=3")) == 3


def test_a_window_without_an_end_goes_on_to_the_last_purchase(vendor: Caller, catalogue: Catalogue) -> None:
    last = catalogue.purchases[-1]
    records = vendor.records(f"startdate={last.purchased_at:%Y-%m-%dT%H:%M:%S}Z")
    assert [subfields(record, "037", "a") for record in records] == [[last.item_id]]


def test_a_window_from_the_beginning_of_time_is_served(vendor: Caller) -> None:
    assert len(vendor.records("startdate=0001-01-01")) == 50


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (f"{ALL}&offset=0", "offset must be at least 1"),
        (f"{ALL}&offset=-3", "offset must be at least 1"),
        (f"{ALL}&limit=many", "limit must be at least 1"),
        ("enddate=2020-01-01", "startdate is missing"),
        ("startdate=soon", "startdate is no date"),
    ],
)
def test_impossible_parameters_get_an_error_document(vendor: Caller, query: str, reason: str) -> None:
    answer = vendor.get(f"data/marc?{query}")
    assert answer.status_code == 400
    assert etree.fromstring(answer.content).findtext("Message") == reason


def test_a_window_ends_before_its_end_unless_the_setting_says_otherwise(
    catalogue: Catalogue, http: httpx.Client
) -> None:
    edge = catalogue.purchases[3].purchased_at
    window = f"startdate=2000-01-01&enddate={edge:%Y-%m-%dT%H:%M:%S}"
    before = sum(p.purchased_at < edge for p in catalogue.purchases)
    upto = sum(p.purchased_at <= edge for p in catalogue.purchases)
    with (
        running_sandbox(Sandbox(catalogue)) as strict,
        running_sandbox(Sandbox(catalogue, end_included=True)) as wide,
    ):
        assert len(Caller(strict, http).records(window)) == before
        assert len(Caller(wide, http).records(window)) == upto > before


def test_a_single_record_is_found_by_its_id(vendor: Caller, catalogue: Catalogue) -> None:
    purchase = purchase_of_a_usual_kind(catalogue)
    [record] = vendor.documents(f"data/marc/{purchase.item_id}").findall(f"{MARC}record")
    assert item_ids(record) == [purchase.item_id]
    assert len(vendor.documents("data/marc/nothere")) == 0


# Items and events


def test_items_answers_with_what_is_listed_and_leaves_out_the_rest(
    vendor: Caller, catalogue: Catalogue
) -> None:
    listed = [p.item_id for p in catalogue.purchases if p.listed][:20]
    unlisted = next(p.item_id for p in catalogue.purchases if not p.listed)
    items = vendor.items(*listed, unlisted, "nothere", listed[0])
    assert [item.findtext("ItemId") for item in items] == listed
    assert vendor.items("nothere") == []


def test_items_takes_no_more_than_twenty_five_ids(vendor: Caller, catalogue: Catalogue) -> None:
    ids = [p.item_id for p in catalogue.purchases]
    assert vendor.get(f"items/{','.join(ids[:25])}").status_code == 200
    answer = vendor.get(f"items/{','.join(ids[:26])}")
    assert answer.status_code == 400
    assert etree.fromstring(answer.content).tag == "Error"


def test_events_of_a_library_in_which_nothing_happens_are_an_empty_batch(vendor: Caller) -> None:
    batch = vendor.documents("data/cloudevents?startdate=2024-11-10T10:00:00")
    assert (batch.tag, len(batch)) == ("LibraryEventBatch", 0)


def test_a_removed_title_is_gone_from_items_and_by_id_but_not_from_its_window(
    moody: Caller, catalogue: Catalogue
) -> None:
    purchase = purchase_of_a_usual_kind(catalogue)
    base_url = moody.running.base_url
    moment = purchase.purchased_at
    window = f"startdate={moment:%Y-%m-%dT%H:%M:%S}&enddate={moment + timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}"
    assert moody.http.post(f"{base_url}/sandbox/remove/{purchase.item_id}").status_code == 204
    assert moody.items(purchase.item_id) == []
    assert len(moody.documents(f"data/marc/{purchase.item_id}")) == 0
    assert [purchase.item_id] in [item_ids(record) for record in moody.records(window)]
    assert moody.http.post(f"{base_url}/sandbox/remove/nothere").status_code == 404


# Faults on the wire


def test_gateway_and_load_faults_have_their_statuses(moody: Caller) -> None:
    for spec, status, retry_after in [
        ("bad-gateway=1", 502, None),
        ("unavailable=1", 503, "1"),
        ("too-many=1", 429, "1"),
        ("error-500=1", 500, None),
    ]:
        moody.misbehave(spec)
        answer = moody.get(f"data/marc?{ALL}")
        assert (answer.status_code, answer.headers.get("Retry-After")) == (status, retry_after)


def test_how_long_to_wait_is_a_setting(catalogue: Catalogue, http: httpx.Client) -> None:
    faults = Faults.parse("unavailable=1")
    with running_sandbox(Sandbox(catalogue, faults=faults, retry_after_seconds=0)) as running:
        assert Caller(running, http).get("items/a").headers["Retry-After"] == "0"


def test_error_documents_come_with_status_500_too(moody: Caller) -> None:
    moody.misbehave("error-document-500=1")
    answer = moody.get("items/a")
    assert answer.status_code == 500
    assert etree.fromstring(answer.content).findtext("Message") in ("Unknown error", "Authentication failed")


def test_error_documents_say_both_things_that_the_vendor_says(moody: Caller) -> None:
    moody.misbehave("error-document=1")
    answers = [moody.documents("items/a") for _ in range(2)]
    assert {answer.findtext("Message") for answer in answers} == {"Unknown error", "Authentication failed"}


def test_a_web_page_comes_with_status_200(moody: Caller) -> None:
    moody.misbehave("html=1")
    answer = moody.get(f"data/marc?{ALL}")
    assert answer.status_code == 200
    assert answer.text.startswith("<html>")


def test_a_blank_answer_never_comes_twice_running_for_one_url_whoever_asks_in_between(
    catalogue: Catalogue, http: httpx.Client
) -> None:
    clock = Clock(UNTIL)
    with running_sandbox(Sandbox(catalogue, faults=Faults.parse("blank=1"), clock=clock)) as running:
        caller = Caller(running, http)
        lengths = [len(caller.get(f"data/marc?{ALL}").content) for _ in range(4)]
        assert [length > 0 for length in lengths] == [False, True, True, True]
        clock.moment += timedelta(minutes=10)
        assert caller.get(f"data/marc?{ALL}").content == b""
        assert caller.get(f"data/marc?{ALL}").content != b""


def test_items_can_be_blank_every_time_for_there_it_means_nothing(moody: Caller) -> None:
    moody.misbehave("blank=1")
    assert [moody.get("items/a").content for _ in range(3)] == [b"", b"", b""]


def test_a_window_without_records_can_be_blank_every_time(moody: Caller) -> None:
    desert = "data/marc?startdate=1999-01-01&enddate=1999-01-02"
    assert len(moody.documents(desert)) == 0
    moody.misbehave("blank-when-empty=1")
    assert [moody.get(desert).content for _ in range(2)] == [b"", b""]
    assert moody.records(ALL)


def test_a_truncated_answer_is_complete_to_http_and_broken_to_xml(moody: Caller) -> None:
    moody.misbehave("truncated=1")
    answer = moody.get(f"data/marc?{ALL}")
    assert int(answer.headers["Content-Length"]) == len(answer.content) > 0
    with pytest.raises(etree.XMLSyntaxError):
        etree.fromstring(answer.content)


def test_a_dropped_connection_ends_in_mid_body(moody: Caller) -> None:
    moody.misbehave("drop=1")
    with pytest.raises(httpx.RemoteProtocolError, match="closed connection"):
        moody.get(f"data/marc?{ALL}")


def test_a_length_can_promise_more_than_comes(moody: Caller) -> None:
    whole = moody.get("items/a").content
    moody.misbehave("long-length=1")
    with pytest.raises(httpx.RemoteProtocolError, match=rf"received {len(whole)} bytes, expected"):
        moody.get("items/a")


def test_a_length_can_promise_half_of_what_comes(moody: Caller) -> None:
    whole = moody.get("items/a").content
    moody.misbehave("short-length=1")
    half = moody.get("items/a").content
    assert whole.startswith(half)
    assert len(half) == len(whole) // 2
    request = moody.request("items/a")
    lines = [f"GET {request.url.raw_path.decode()} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    with socket.create_connection((request.url.host, request.url.port or 0), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        received = b""
        while not received.endswith(whole[-len(half) :]):
            received += connection.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"content-length: {len(half)}".encode() in head.lower()
    assert body == whole


def test_what_is_said_to_be_gzip_can_be_none(moody: Caller) -> None:
    moody.misbehave("gzip-plain=1")
    with pytest.raises(httpx.DecodingError):
        moody.get("items/a")


def test_gzip_can_end_before_a_byte_is_out_of_it(moody: Caller) -> None:
    moody.misbehave("gzip-cut=1")
    answer = moody.get(f"data/marc?{ALL}")
    assert int(answer.headers["Content-Length"]) > 0
    assert answer.content == b""


def test_nothing_comes_until_the_client_gives_up(moody: Caller) -> None:
    moody.misbehave("silent=1")
    with pytest.raises(httpx.ReadTimeout):
        moody.get("items/a", timeout_seconds=0.1)
    moody.misbehave("")
    assert moody.get("items/a").status_code == 200


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_who_waits_for_the_end_of_an_answer_without_one_does_not_keep_the_sandbox_open(
    catalogue: Catalogue, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    with httpx.Client() as client, ThreadPoolExecutor(1) as threads:
        with running_sandbox(Sandbox(catalogue, faults=Faults.parse(f"{fault}=1"))) as running:
            waiting = threads.submit(Caller(running, client).get, "items/a")
            eventually(lambda: running.statistics()["faults"], 10)
        assert waiting.exception(10) or waiting.result().status_code == 500
    assert "Exception" not in caplog.text


@pytest.mark.parametrize(("fault", "enough"), [("drip", 100), ("endless", 25_000_000)])
def test_an_answer_can_go_on_without_end(moody: Caller, fault: str, enough: int) -> None:
    whole = moody.get("items/a").content
    moody.misbehave(f"{fault}=1")
    taken = bytearray()
    with closing(moody.http.send(moody.request("items/a"), stream=True)) as answer:
        for piece in answer.iter_bytes():
            taken += piece
            if len(taken) > enough:
                break
    assert taken.rstrip() == whole


def test_a_page_can_be_larger_than_anybody_would_read(moody: Caller) -> None:
    moody.misbehave("oversized=1")
    answer = moody.get(f"data/marc?{ALL}")
    assert int(answer.headers["Content-Length"]) == len(answer.content) > 20 * 1024 * 1024
    assert len(etree.fromstring(answer.content.rstrip())) == 50


def test_a_redirect_leads_elsewhere(moody: Caller) -> None:
    moody.misbehave("redirect=1")
    answer = moody.get(f"data/marc?{ALL}")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/maintenance")


def test_undefined_entities_come_in_purchase_records(moody: Caller) -> None:
    moody.misbehave("entities=1")
    assert "&ldquo;" in moody.get(f"data/marc?{ALL}").text


def test_items_can_be_escaped_twice(moody: Caller, catalogue: Catalogue) -> None:
    purchase = next(p for p in catalogue.purchases if p.listed and "'" in p.work.title)
    moody.misbehave("double-escape=1")
    [item] = moody.items(purchase.item_id)
    assert item.findtext("Title") == purchase.work.title.replace("'", "&#x27;")


def test_the_edge_of_a_window_can_answer_in_both_windows(moody: Caller, catalogue: Catalogue) -> None:
    edge = catalogue.purchases[3].purchased_at
    window = f"startdate=2000-01-01&enddate={edge:%Y-%m-%dT%H:%M:%S}"
    usual = len(moody.records(window))
    moody.misbehave("repeat-edge=1")
    assert len(moody.records(window)) > usual


def test_a_page_can_repeat_the_one_before(moody: Caller, catalogue: Catalogue) -> None:
    window, _ = big_day(catalogue)
    moody.misbehave("repeat-page=1")
    first, second = (
        [subfields(record, "037", "a") for record in moody.records(f"{window}&offset={offset}")]
        for offset in (1, 51)
    )
    assert first == second


def test_a_slow_answer_is_late_and_whole(moody: Caller) -> None:
    moody.misbehave("slow=1")
    started = perf_counter()
    assert len(moody.records(ALL)) == 50
    assert perf_counter() - started >= 0.03


def test_a_wrong_specification_is_explained_and_changes_nothing(moody: Caller) -> None:
    moody.misbehave("html=1")
    answer = moody.http.post(f"{moody.running.base_url}/sandbox/faults", content="storm=1")
    assert answer.status_code == 400
    assert "bad-gateway" in answer.text
    assert moody.get(f"data/marc?{ALL}").text.startswith("<html>")


def test_latency_of_requests_side_by_side_overlaps(catalogue: Catalogue, http: httpx.Client) -> None:
    with running_sandbox(Sandbox(catalogue, latency_ms=200)) as running:
        caller = Caller(running, http)
        caller.get("items/a")
        started = perf_counter()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: caller.get(f"items/a{n}"), range(8)))
        assert 0.2 <= perf_counter() - started < 8 * 0.2


# What happened


def test_statistics_tell_what_was_sold_and_asked(moody: Caller, catalogue: Catalogue) -> None:
    moody.get(f"data/marc?{ALL}")
    moody.get("data/marc/a")
    moody.get("items/a")
    moody.get("items/a", key="wrong")
    moody.get("data/cloudevents")
    moody.misbehave("bad-gateway=1,entities=1")
    moody.get(f"data/marc?{ALL}")
    told = moody.http.get(f"{moody.running.base_url}/sandbox/statistics").json()
    assert told == moody.running.statistics()
    assert told["titles_bought"] == len(catalogue) == 600
    assert told["unusable_records"] == catalogue.unusable == 3
    assert told["usable_titles"] == 597
    assert told["requests"] == {"marc": 2, "record": 1, "items": 1, "cloudevents": 1, "refused": 1}
    assert told["faults"]["bad-gateway"] == 1


def test_titles_tell_what_was_bought_and_when(vendor: Caller) -> None:
    titles = vendor.http.get(f"{vendor.running.base_url}/sandbox/titles").json()
    purchases = vendor.running.catalogue.purchases
    assert [title["id"] for title in titles] == [p.item_id for p in purchases]
    assert [title["purchased_at"] for title in titles] == [p.purchased_at.isoformat() for p in purchases]
    assert sum(not title["usable"] for title in titles) == 3
    assert sum(not title["listed"] for title in titles) == 1
    assert all(title["available"] <= title["copies"] for title in titles)


# Serving


def test_a_taken_port_is_explained(vendor: Caller) -> None:
    port = httpx.URL(vendor.running.base_url).port or 0
    with pytest.raises(UserError, match=f"cannot listen on port {port}.*another port"):
        serve(port, vendor.running.sandbox, ready=lambda _base_url: None)


def test_served_on_any_free_port_it_says_where_and_stops_on_ctrl_c(http: httpx.Client) -> None:
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
        assert http.get(f"{base_url}/sandbox/statistics").json()["titles_bought"] == 5
        process.send_signal(2)
        assert process.wait(10) == 0
