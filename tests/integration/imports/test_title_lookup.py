"""Tests of title lookups: batches, concurrency, missing titles and invalid data."""

import threading

import httpx
import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import ConnectionFailed
from accession.core.clock import utc_now
from accession.db.models import Collection
from accession.imports.title_lookup import TitleLookup, look_up_titles
from accession.imports.vendor_api import vendor_api_for
from tests.fixtures.factories import NOON
from tests.fixtures.holdings import title_ids
from tests.fixtures.importers import capture_step_logs
from tests.fixtures.vendor import ScriptedVendor, item, transport_with_barrier
from tests.fixtures.waiting import DEADLINE_SECONDS


@pytest.fixture
def api(session: Session, collection: Collection, vendor: ScriptedVendor) -> BibliothecaAPI:
    """The collection's API client, connected to the scripted vendor."""
    return vendor_api_for(collection)


def test_lookup_of_no_titles_sends_no_request(vendor: ScriptedVendor, api: BibliothecaAPI) -> None:
    with time_machine.travel(NOON, tick=False):
        assert look_up_titles(api, []) == TitleLookup(as_of=NOON, titles={}, missing=(), repairs=0)

    assert vendor.requests == []


@pytest.mark.parametrize(("titles", "batch_sizes"), [(1, [1]), (25, [25]), (26, [25, 1]), (60, [25, 25, 10])])
def test_lookup_requests_titles_in_batches_of_25(
    vendor: ScriptedVendor, api: BibliothecaAPI, titles: int, batch_sizes: list[int]
) -> None:
    ids = title_ids(titles)[::-1]
    vendor.items = {item_id: item(item_id) for item_id in ids if not item_id.endswith("7")}

    lookup = look_up_titles(api, ids)

    batches = sorted(vendor.item_requests(), key=lambda batch: ids.index(batch[0]))
    assert [len(batch) for batch in batches] == batch_sizes
    assert [item_id for batch in batches for item_id in batch] == ids
    assert lookup.titles.keys() == vendor.items.keys()
    assert lookup.missing == tuple(item_id for item_id in ids if item_id.endswith("7"))


def test_lookup_is_as_of_a_time_before_its_first_request(vendor: ScriptedVendor, api: BibliothecaAPI) -> None:
    """Events during the request must not be taken for older than its response."""
    vendor.items = {item_id: item(item_id) for item_id in title_ids(30)}

    with time_machine.travel(NOON, tick=True):
        lookup = look_up_titles(api, title_ids(30))
        end = utc_now()

    title_times = [title.as_of for title in lookup.titles.values()]
    assert NOON <= lookup.as_of <= min(title_times) <= max(title_times) <= end


def test_other_work_is_done_while_requests_are_in_flight(
    collection: Collection, vendor: ScriptedVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_in_flight = threading.Barrier(3, timeout=DEADLINE_SECONDS)
    vendor.items = {item_id: item(item_id) for item_id in title_ids(30)}
    transport = transport_with_barrier(vendor, all_in_flight)
    monkeypatch.setattr("accession.bibliotheca.client.vendor_transport", lambda: transport)

    def work() -> None:
        all_in_flight.wait()

    lookup = look_up_titles(vendor_api_for(collection), title_ids(30), meanwhile=work)

    assert lookup.titles.keys() == vendor.items.keys()


def test_invalid_item_is_logged_and_not_missing(vendor: ScriptedVendor, api: BibliothecaAPI) -> None:
    vendor.items = {"good": item("good"), "bad": item("bad", title="")}

    with capture_step_logs() as logs:
        lookup = look_up_titles(api, ["good", "bad", "omitted"])

    assert (list(lookup.titles), lookup.missing) == (["good"], ("omitted",))
    (entry,) = logs
    assert (entry["log_level"], entry["event"], entry["title"]) == (
        "warning",
        "invalid title metadata",
        "bad",
    )
    assert entry["reason"] == "it has no Title"


def test_item_without_id_hides_missing_titles_of_its_batch(
    vendor: ScriptedVendor, api: BibliothecaAPI
) -> None:
    """It may be any of the titles that seem to be missing; other batches are not affected."""
    vendor.items = {item_id: item(item_id) for item_id in title_ids(30)}
    vendor.items["t0000"] = item("")
    del vendor.items["t0001"], vendor.items["t0029"]

    lookup = look_up_titles(api, title_ids(30))

    assert lookup.missing == ("t0029",)
    assert lookup.titles.keys() == set(title_ids(29)[2:])


def test_item_that_was_not_requested_is_ignored(vendor: ScriptedVendor, api: BibliothecaAPI) -> None:
    vendor.items = {"abc": item("abc") + item("other")}

    assert look_up_titles(api, ["abc"]).titles.keys() == {"abc"}


def test_last_of_duplicate_items_wins(vendor: ScriptedVendor, api: BibliothecaAPI) -> None:
    vendor.items = {"abc": item("abc", owned=1) + item("abc", owned=2)}

    assert look_up_titles(api, ["abc"]).titles["abc"].circulation.licenses_owned == 2


def test_repaired_documents_of_all_batches_are_counted(vendor: ScriptedVendor, api: BibliothecaAPI) -> None:
    vendor.items = {item_id: item(item_id) for item_id in title_ids(60)}
    for item_id in ("t0000", "t0001", "t0059"):
        vendor.items[item_id] = item(item_id, title="TITLE").replace("TITLE", "Salt &supl; Pepper")

    assert look_up_titles(api, title_ids(60)).repairs == 2


def test_failed_batch_fails_the_lookup(vendor: ScriptedVendor, api: BibliothecaAPI) -> None:
    vendor.items = {item_id: item(item_id) for item_id in title_ids(30)}
    vendor.responses.append(httpx.Response(200, text=f"<ArrayOfItem>{item('t0000')}</ArrayOfItem>"))
    vendor.responses.append(httpx.ConnectError("refused"))

    with pytest.raises(ConnectionFailed):
        look_up_titles(api, title_ids(30))
