"""Filters of titles, in a catalogue that the tests only read."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.search import find_titles, match_titles
from accession.catalog.title_filter import Lack, TitleFilter, select_pools
from accession.catalog.title_order import SortKey, TitleOrder
from accession.core.errors import InvalidInput, NotFound
from accession.core.vocabulary import Format
from accession.db.engine import engine
from accession.db.models import Collection, LicensePool
from tests.fixtures.factories import apply_titles, make_collection, make_pool, title_data
from tests.fixtures.servers import delete_all_rows

# Title to owned and available copies, and holds.
COPIES = {
    "available": (2, 1, 0),
    "on loan": (2, 0, 0),
    "withdrawn": (0, 0, 0),
    "available, on hold": (2, 1, 3),
    "on order": (2, 2, 3),
    "impossible": (1, 3, 0),
}
NOT_ON_SALE = {"on order": "2999-01"}
PURCHASES = {
    "march": [PurchaseDate(date(2014, 3, 31))],
    "april": [PurchaseDate(date(2014, 4, 1), month_only=True)],
    "twice": [PurchaseDate(date(2014, 3, 1)), PurchaseDate(date(2016, 5, 1))],
    "never": [],
}
INSERT_IDENTIFIERS = """
    INSERT INTO identifiers (type, identifier)
    SELECT 'Bibliotheca ID', 'complete-' || number FROM generate_series(1, :titles) AS number
"""
INSERT_POOLS = """
    INSERT INTO license_pools (collection_id, identifier_id, data_source, created_at, updated_at)
    SELECT collections.id, identifiers.id, 'Bibliotheca', now(), now() FROM collections, identifiers
    WHERE name = 'Alder Library' AND identifier LIKE 'complete-%'
"""
INSERT_STATISTICS = """
    INSERT INTO title_statistics
        (license_pool_id, collection_id, edition_id, format, language, first_purchased_on)
    SELECT license_pools.id, collection_id, license_pools.id, 'epub', 'eng', '2020-01-01'
    FROM license_pools JOIN identifiers ON identifiers.id = identifier_id
    WHERE identifier LIKE 'complete-%'
"""


@pytest.fixture(scope="module")
def catalogue(servers: object) -> None:
    """Titles that differ in format and language, in copies, and in purchase dates."""
    delete_all_rows()
    with Session(engine()) as session:
        alder, birch, cedar, dogwood = (
            make_collection(session, f"{name} Library") for name in ("Alder", "Birch", "Cedar", "Dogwood")
        )
        add_title(session, alder, "pdf", title="One", format=Format.PDF, language="ger")
        add_title(session, alder, "mp3", title="Two", format=Format.MP3, language="eng")
        add_title(session, birch, "birch", title="Two", language="eng")
        make_pool(session, alder, "bare")
        for identifier, counts in COPIES.items():
            names = ("licenses_owned", "licenses_available", "patrons_in_hold_queue")
            counted = dict(zip(names, counts, strict=True))
            on_sale = NOT_ON_SALE.get(identifier)
            add_title(session, cedar, identifier, title="Copies", on_sale=on_sale, **counted)
        make_pool(session, cedar, "unknown")
        for identifier, dates in PURCHASES.items():
            pool = add_title(session, dogwood, identifier, title="Purchased")
            for purchase_date in dates:
                record = PurchaseRecordData(pool, lambda: b"marc", "hash")
                store_purchase_records(session, {purchase_date: [record]})
        session.commit()


@pytest.fixture
def reader(catalogue: None) -> Iterator[Session]:
    """A session that reads the catalogue."""
    with Session(engine()) as session:
        yield session


def add_title(session: Session, collection: Collection, identifier: str, **fields: Any) -> LicensePool:
    pool = make_pool(session, collection, identifier)
    plain: dict[str, Any] = {"contributors": (), "publisher": None, "isbns": ()}
    apply_titles(session, {pool.id: title_data(identifier, **plain | fields)})
    return pool


def insert_complete_titles(session: Session, titles: int) -> None:
    """Insert titles that lack nothing: the planner uses an index of the others only if they are few."""
    session.execute(text(INSERT_IDENTIFIERS), {"titles": titles})
    session.execute(text(INSERT_POOLS))
    session.execute(text(INSERT_STATISTICS))
    session.execute(text("ANALYZE title_statistics, license_pools"))


def find(session: Session, text: str = "", **filters: Any) -> list[str]:
    order = None if text else TitleOrder(SortKey.IMPORTED, is_descending=False)
    matches = match_titles(session, TitleFilter(text, **filters))
    return [view.identifier for view in find_titles(session, matches, order).titles]


def test_titles_are_filtered_by_collection_format_and_language(reader: Session) -> None:
    assert find(reader)[:4] == ["pdf", "mp3", "birch", "bare"]
    assert find(reader, collection="Alder Library") == ["pdf", "mp3", "bare"]
    assert find(reader, "two", collection="Birch Library") == ["birch"]
    assert find(reader, format="pdf") == ["pdf"]
    assert find(reader, language="eng") == ["mp3", "birch"]
    assert find(reader, "one", language="eng") == []
    assert find(reader, format="\0") == []


@pytest.mark.parametrize(
    ("availability", "expected"),
    [
        ("available", ["available", "available, on hold", "impossible"]),
        ("on_hold", ["on loan", "available, on hold"]),
        ("on_order", ["on order"]),
        ("withdrawn", ["withdrawn"]),
    ],
)
@pytest.mark.parametrize("text", ["", "copies"])
def test_titles_are_filtered_by_availability(
    reader: Session, availability: str, expected: list[str], text: str
) -> None:
    assert find(reader, text, collection="Cedar Library", availability=availability) == expected


def test_held_filter_leaves_out_withdrawn_titles(reader: Session) -> None:
    held = ["available", "on loan", "available, on hold", "on order", "impossible", "unknown"]
    assert find(reader, collection="Cedar Library") == [*COPIES, "unknown"]
    assert find(reader, collection="Cedar Library", held=True) == held
    assert find(reader, "withdrawn", collection="Cedar Library", held=True) == []


def test_unknown_availability_or_collection_is_rejected(reader: Session) -> None:
    with pytest.raises(
        InvalidInput, match='no availability "lost": choose one of available, on_hold, on_order, withdrawn'
    ):
        match_titles(reader, TitleFilter(availability="lost"))
    with pytest.raises(NotFound, match='"Unknown Library"'):
        match_titles(reader, TitleFilter(collection="Unknown Library"))


def test_titles_are_filtered_by_purchase_date(reader: Session) -> None:
    def find_purchased(text: str = "", **filters: date) -> list[str]:
        return find(reader, text, collection="Dogwood Library", **filters)

    assert find_purchased(purchased_from=date(2014, 3, 31)) == ["march", "april", "twice"]
    assert find_purchased(purchased_from=date(2014, 4, 30)) == ["april", "twice"]
    assert find_purchased(purchased_until=date(2014, 3, 31)) == ["march", "twice"]
    day = date(2014, 4, 2)
    assert find_purchased("purchased", purchased_from=day, purchased_until=day) == ["april"]
    assert find_purchased(purchased_from=date(2014, 5, 1), purchased_until=date(2016, 4, 30)) == []


@pytest.mark.parametrize("collection", [None, "Alder Library"])
@pytest.mark.parametrize(
    ("lacks", "index"),
    [
        (Lack.METADATA, "incomplete"),
        (Lack.COVER, "incomplete"),
        (Lack.FORMAT, "without_format"),
        (Lack.LANGUAGE, "without_language"),
        (Lack.SUBJECT, "without_subject"),
        (Lack.PURCHASE, "without_purchase"),
    ],
)
def test_titles_without_a_part_are_found_by_an_index(
    reader: Session, collection: str | None, lacks: Lack, index: str
) -> None:
    """They are few, and a list of them must not read the statistics of all others."""
    query = select_pools(reader, TitleFilter(collection=collection, lacks=lacks))
    statement = query.compile(engine(), compile_kwargs={"literal_binds": True})
    insert_complete_titles(reader, 3000)
    plan = "\n".join(reader.connection().exec_driver_sql(f"EXPLAIN {statement}").scalars())
    assert f"ix_title_statistics_{index}" in plan
