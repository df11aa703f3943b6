"""Asking about titles: as many at once as the vendor takes, and what its silence about one of them means."""

from datetime import timedelta

import httpx
import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.bibliotheca.client import BibliothecaAPI
from accession.bibliotheca.errors import RequestTimedOut
from accession.db.models import Collection
from accession.imports.titles import LookUp, look_up
from accession.imports.vendor import api_for
from tests.fixtures.factories import NOON
from tests.fixtures.holdings import names
from tests.fixtures.importers import logged
from tests.fixtures.vendor import Vendor, item


@pytest.fixture
def api(session: Session, collection: Collection, vendor: Vendor) -> BibliothecaAPI:
    """The vendor as the collection asks it."""
    return api_for(collection)


def test_nobody_is_asked_about_nothing(vendor: Vendor, api: BibliothecaAPI) -> None:
    with time_machine.travel(NOON, tick=False):
        assert look_up(api, []) == LookUp(as_of=NOON, titles={}, missing=(), repairs=0)

    assert vendor.requests == []


@pytest.mark.parametrize(("titles", "requests"), [(1, [1]), (25, [25]), (26, [25, 1]), (60, [25, 25, 10])])
def test_titles_are_asked_for_in_batches_and_none_is_lost(
    vendor: Vendor, api: BibliothecaAPI, titles: int, requests: list[int]
) -> None:
    ids = names(titles)[::-1]
    vendor.items = {name: item(name) for name in ids if not name.endswith("7")}

    looked_up = look_up(api, ids)

    asked = sorted(vendor.item_requests(), key=lambda batch: ids.index(batch[0]))
    assert [len(batch) for batch in asked] == requests
    assert [name for batch in asked for name in batch] == ids
    assert looked_up.titles.keys() == vendor.items.keys()
    assert looked_up.missing == tuple(name for name in ids if name.endswith("7"))


def test_what_is_said_is_as_of_the_first_request_at_the_latest(vendor: Vendor, api: BibliothecaAPI) -> None:
    """What happened while the vendor was answering is then never taken for older than its answer."""
    vendor.items = {name: item(name) for name in names(30)}

    with time_machine.travel(NOON, tick=True):
        looked_up = look_up(api, names(30))

    told = [title.as_of for title in looked_up.titles.values()]
    assert NOON <= looked_up.as_of <= min(told) <= max(told) < NOON + timedelta(minutes=1)


def test_an_item_that_cannot_be_used_is_logged_and_neither_told_nor_missing(
    vendor: Vendor, api: BibliothecaAPI
) -> None:
    vendor.items = {"good": item("good"), "bad": item("bad", title="")}

    with logged() as logs:
        looked_up = look_up(api, ["good", "bad", "gone"])

    assert (list(looked_up.titles), looked_up.missing) == (["good"], ("gone",))
    assert [(line["log_level"], line["event"], line["title"], line["reason"]) for line in logs] == [
        ("warning", "title's metadata cannot be used", "bad", "it has no Title")
    ]


def test_an_item_without_an_id_leaves_open_what_is_missing_of_its_own_request_alone(
    vendor: Vendor, api: BibliothecaAPI
) -> None:
    vendor.items = {name: item(name) for name in names(30)}
    vendor.items["t0000"] = item("")
    del vendor.items["t0001"], vendor.items["t0029"]

    looked_up = look_up(api, names(30))

    assert looked_up.missing == ("t0029",)
    assert looked_up.titles.keys() == set(names(29)[2:])


def test_an_item_that_nobody_asked_for_is_left_out(vendor: Vendor, api: BibliothecaAPI) -> None:
    vendor.items = {"abc": item("abc") + item("other")}

    assert look_up(api, ["abc"]).titles.keys() == {"abc"}


def test_an_item_that_comes_twice_is_what_it_is_said_to_be_last(vendor: Vendor, api: BibliothecaAPI) -> None:
    vendor.items = {"abc": item("abc", owned=1) + item("abc", owned=2)}

    assert look_up(api, ["abc"]).titles["abc"].circulation.licenses_owned == 2


def test_repaired_documents_are_counted_over_all_requests(vendor: Vendor, api: BibliothecaAPI) -> None:
    vendor.items = {name: item(name) for name in names(60)}
    for name in ("t0000", "t0001", "t0059"):
        vendor.items[name] = item(name, title="TITLE").replace("TITLE", "Salt &supl; Pepper")

    assert look_up(api, names(60)).repairs == 2


def test_a_fault_in_one_request_is_a_fault_of_all(vendor: Vendor, api: BibliothecaAPI) -> None:
    vendor.items = {name: item(name) for name in names(30)}
    vendor.answers.extend([httpx.Response(200, text=f"<ArrayOfItem>{item('t0000')}</ArrayOfItem>")])
    vendor.answers.append(httpx.ConnectError("gone"))

    with pytest.raises(RequestTimedOut):
        look_up(api, names(30))
