"""Exports of several collections: the copies of a library that they share are counted once."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import pymarc
import pytest
import time_machine
from pyarrow import parquet
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.db.models import Collection
from accession.exports.formats import find_format
from accession.exports.selection import select_titles
from tests.fixtures.factories import NOON, make_collection, make_pool, store_title
from tests.fixtures.oai import list_ids
from tests.fixtures.purchases import purchase_title, set_copies

DAY = timedelta(days=1)
LINK = "https://library.example/{collection}/{identifier}"


@pytest.fixture
def branch(session: Session, collection: Collection) -> Collection:
    """A second collection of the library of the first."""
    branch = make_collection(session, "Branch")
    branch.library_id, branch.base_url = "alder ", "HTTP://127.0.0.1:9/"
    session.commit()
    return branch


@pytest.fixture
def birch(session: Session, collection: Collection) -> Collection:
    """A collection of another library."""
    return make_collection(session, "Birch Library")


def export(
    session: Session, form: str, *collections: str, since: datetime | None = None, **options: Any
) -> BytesIO:
    session.expire_all()
    out = BytesIO()
    selection = select_titles(session, collections, since)
    find_format(form).write(session, selection, out, options, lambda _: None)
    out.seek(0)
    return out


def rows(session: Session, *collections: str, since: datetime | None = None) -> list[tuple[Any, ...]]:
    """Return collection, title and copies of each row, and with `since` the change before them."""
    names = ("change",) * (since is not None) + ("collection", "identifier", "licenses_owned")
    lines = export(session, "jsonl", *collections, since=since).read().decode().splitlines()
    return [tuple(json.loads(line)[name] for name in names) for line in lines]


def records(session: Session, *collections: str, **options: Any) -> Iterable[pymarc.Record]:
    for record in pymarc.MARCReader(export(session, "marc21", *collections, **options), permissive=False):
        assert record is not None
        yield record


def fields(record: pymarc.Record, tag: str, code: str) -> list[list[str]]:
    return [field.get_subfields(code) for field in record.get_fields(tag)]


def links(record: pymarc.Record) -> list[list[str]]:
    return [field.get_subfields("u") for field in record.get_fields("856") if field.indicators == ("4", "0")]


# Collections of one library


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_table_counts_copies_of_shared_library_once(
    session: Session, collection: Collection, branch: Collection, form: str
) -> None:
    for owner in (branch, collection):
        store_title(session, owner, "solaris", licenses_owned=2)
    store_title(session, branch, "eden", licenses_owned=3)
    columns = ["collection", "identifier", "licenses_owned"]
    data = export(session, form, columns=columns)
    if form == "parquet":
        written = [list(row.values()) for row in parquet.read_table(data).to_pylist()]
    elif form == "csv":
        written = [line.split(",") for line in data.read().decode().splitlines()[1:]]
    else:
        written = [list(json.loads(line).values()) for line in data]
    assert [[str(value) for value in row] for row in written] == [
        ["Alder Library", "solaris", "2"],
        ["Branch", "eden", "3"],
    ]
    assert rows(session, "Branch") == [("Branch", "solaris", 2), ("Branch", "eden", 3)]
    assert rows(session, "Branch", "Alder Library") == rows(session)


def test_marc_has_copies_of_shared_library_once(
    session: Session, collection: Collection, branch: Collection
) -> None:
    for owner in (branch, collection):
        purchase_title(session, owner, "solaris", NOON, licenses_owned=2)
    (record,) = records(session, availability=True)
    assert fields(record, "852", "b") == [["Alder Library"]]
    assert fields(record, "852", "x")[0][0] == "owned: 2"
    assert len(links(record)) == 1


def test_kbart_has_title_of_shared_library_once(
    session: Session, collection: Collection, branch: Collection
) -> None:
    for owner in (branch, collection):
        store_title(session, owner, "solaris")
    assert len(export(session, "kbart").read().splitlines()) == 2


def test_oai_set_of_each_collection_has_its_title_once(
    session: Session, collection: Collection, branch: Collection
) -> None:
    for owner in (collection, branch):
        store_title(session, owner, "solaris")
    assert list_ids(session, set="collection:1") == list_ids(session, set="collection:2") == ["solaris"]


def test_collection_without_counts_yet_is_not_preferred(
    session: Session, collection: Collection, branch: Collection
) -> None:
    make_pool(session, collection, "solaris")
    store_title(session, branch, "solaris", licenses_owned=2)
    assert rows(session) == [("Branch", "solaris", 2)]


def test_changes_of_shared_library_are_those_of_all_collections(
    session: Session, collection: Collection, branch: Collection
) -> None:
    pools = {}
    for at, owner, name in (
        (NOON, collection, "solaris"),
        (NOON, collection, "eden"),
        (NOON + 2 * DAY, branch, "solaris"),
        (NOON + 2 * DAY, branch, "fiasco"),
    ):
        pools[owner.name, name] = purchase_title(session, owner, name, at)
    # Known in one of them before: not new.
    since = NOON + DAY
    assert rows(session, since=since) == [
        ("changed", "Alder Library", "solaris", 2),
        ("new", "Branch", "fiasco", 2),
    ]
    # Withdrawn in one of them so far: not removed.
    set_copies(session, pools["Alder Library", "solaris"], NOON + 4 * DAY, owned=0)
    assert rows(session, since=NOON + 3 * DAY) == [("changed", "Branch", "solaris", 2)]
    set_copies(session, pools["Branch", "solaris"], NOON + 5 * DAY, owned=0)
    assert rows(session, since=NOON + 3 * DAY) == [("removed", "Alder Library", "solaris", 0)]


def test_removed_collection_leaves_titles_to_the_other(
    session: Session, collection: Collection, branch: Collection
) -> None:
    for owner in (collection, branch):
        purchase_title(session, owner, "solaris", NOON)
    purchase_title(session, collection, "eden", NOON)
    with time_machine.travel(NOON + 2 * DAY, tick=False):
        mark_for_deletion(collection)
        session.commit()
    assert rows(session) == [("Branch", "solaris", 2)]
    assert rows(session, since=NOON + DAY) == [
        ("changed", "Branch", "solaris", 2),
        ("removed", "Alder Library", "eden", 2),
    ]


# Collections of several libraries


def test_table_has_a_row_for_each_library(
    session: Session, collection: Collection, branch: Collection, birch: Collection
) -> None:
    for owner, copies in ((collection, 2), (birch, 5), (branch, 2)):
        store_title(session, owner, "solaris", licenses_owned=copies)
    assert rows(session) == [("Alder Library", "solaris", 2), ("Birch Library", "solaris", 5)]
    assert rows(session, "Branch", "Birch Library") == [
        ("Birch Library", "solaris", 5),
        ("Branch", "solaris", 2),
    ]


def test_titles_across_batches_are_counted_once(
    session: Session,
    collection: Collection,
    branch: Collection,
    birch: Collection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("solaris", "eden", "fiasco"):
        for owner, copies in ((collection, 2), (birch, 5), (branch, 2)):
            store_title(session, owner, name, licenses_owned=copies)
    monkeypatch.setattr("accession.catalog.change_feed._BATCH", 2)
    assert rows(session) == [
        (owner, name, copies)
        for name in ("solaris", "eden", "fiasco")
        for owner, copies in (("Alder Library", 2), ("Birch Library", 5))
    ]


def test_unchanged_library_is_not_in_the_changes(
    session: Session, collection: Collection, branch: Collection, birch: Collection
) -> None:
    for owner in (collection, branch):
        purchase_title(session, owner, "solaris", NOON)
    with time_machine.travel(NOON + 2 * DAY, tick=False):
        # The metadata, which all collections share, stays the same.
        pool = purchase_title(session, birch, "solaris", NOON)
    set_copies(session, pool, NOON + 2 * DAY, owned=7)
    assert [row[1:] for row in rows(session, since=NOON + DAY)] == [("Birch Library", "solaris", 7)]


def test_marc_has_one_record_with_holdings_of_each_library(
    session: Session, collection: Collection, branch: Collection, birch: Collection
) -> None:
    for owner, copies in ((collection, 2), (birch, 5), (branch, 2)):
        purchase_title(session, owner, "solaris", NOON, licenses_owned=copies)
    (record,) = records(session, availability=True, url_template=LINK)
    assert fields(record, "852", "b") == [["Alder Library"], ["Birch Library"]]
    assert [values[0] for values in fields(record, "852", "x")] == ["owned: 2", "owned: 5"]
    assert links(record) == [
        ["https://library.example/Alder%20Library/solaris"],
        ["https://library.example/Birch%20Library/solaris"],
    ]
    (record,) = records(session, url_template="https://library.example/{identifier}")
    assert links(record) == [["https://library.example/solaris"]]


def test_marc_is_deleted_when_no_library_holds_the_title(
    session: Session, collection: Collection, birch: Collection
) -> None:
    alder_pool, birch_pool = (
        purchase_title(session, owner, "solaris", NOON) for owner in (collection, birch)
    )
    set_copies(session, alder_pool, NOON + 2 * DAY, owned=0)
    (record,) = records(session, since=NOON + DAY, availability=True)
    assert (str(record.leader)[5], fields(record, "852", "b")) == ("c", [["Birch Library"]])
    set_copies(session, birch_pool, NOON + 3 * DAY, owned=0)
    (record,) = records(session, since=NOON + DAY)
    assert str(record.leader)[5] == "d"
