"""History of a title: purchases, changes and events."""

from datetime import date, datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from accession.catalog.circulation import record_events
from accession.catalog.data import ApplyData, LinkData
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.title_history import HistoryEntry, title_history
from accession.core.errors import UserError
from accession.core.vocabulary import ContributorRole, Format, LinkRel
from accession.db.models import Collection, LicensePool, TitleChange
from tests.fixtures.factories import (
    NOON,
    apply_titles,
    counts_data,
    day,
    event_data,
    make_collection,
    make_pool,
    person,
    subject,
    title_data,
)

HOUR = timedelta(hours=1)


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    return make_pool(session, collection, "solaris")


def apply_at(session: Session, pool: LicensePool, at: datetime, **fields: Any) -> None:
    with time_machine.travel(at, tick=False):
        apply_titles(session, {pool.id: title_data("solaris", as_of=at, **fields)})
        session.commit()


def history(session: Session, **arguments: Any) -> list[HistoryEntry]:
    return title_history(session, "Alder Library", "solaris", **arguments)


def test_new_or_unchanged_title_has_no_history(session: Session, pool: LicensePool) -> None:
    for hours in range(3):
        apply_at(session, pool, NOON + hours * HOUR)

    assert history(session) == []


def test_changed_fields_are_recorded_with_previous_values(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON)
    apply_at(
        session,
        pool,
        NOON + HOUR,
        title="Solaris",
        contributors=(
            person("Lem, Stanisław"),
            person("Kandel, Michael"),
            person("Reader, Ron", ContributorRole.NARRATOR),
            person("Itor, Ed", ContributorRole.EDITOR),
            person("Gaiman, Neil", ContributorRole.FOREWORD),
        ),
        subjects=(subject("FICTION / Classics"),),
        isbns=("9780156027601", "9788308068298"),
        links=(LinkData(rel=LinkRel.COVER, href="https://images.example/2"),),
        page_count=204,
        format=Format.PDF,
    )

    (entry,) = history(session)

    assert (entry.at, entry.kind) == (NOON + HOUR, "changed")
    assert dict(entry.changes) == {
        "title": ("Title solaris", "Solaris"),
        "page_count": (None, 204),
        "format": ("epub", "pdf"),
        "authors": (["Stanisław Lem"], ["Stanisław Lem", "Michael Kandel"]),
        "narrators": (["Rita Reader"], ["Ron Reader"]),
        "editors": ([], ["Ed Itor"]),
        "other_contributors": ([], ["Neil Gaiman (writer of foreword)"]),
        "subjects": (["FICTION / Science Fiction"], ["FICTION / Classics"]),
        "isbns": (["9788308068298"], ["9780156027601", "9788308068298"]),
        "cover_url": ("https://images.example/1", "https://images.example/2"),
    }
    assert entry.text == (
        "Changed: title, authors, narrators, editors, other contributors, format, ISBNs, subjects,"
        " page count, cover"
    )


def test_change_of_hidden_field_is_not_recorded(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON)
    cover = LinkData(rel=LinkRel.COVER, href="https://images.example/1")
    apply_at(
        session,
        pool,
        NOON + HOUR,
        links=(cover, LinkData(rel=LinkRel.THUMBNAIL, href="https://images.example/small")),
    )

    assert history(session) == []


def test_first_counts_are_not_recorded_as_change(session: Session, pool: LicensePool) -> None:
    snapshots = [counts_data(2, 1, 0, as_of=NOON), counts_data(2, 0, 3, as_of=NOON + HOUR)]
    snapshots.append(counts_data(0, 0, 3, as_of=NOON + 2 * HOUR))
    for snapshot in snapshots:
        with time_machine.travel(snapshot.as_of, tick=False):
            apply_titles(session, {pool.id: ApplyData(circulation=snapshot)})
            session.commit()

    assert history(session) == [
        HistoryEntry(
            NOON + 2 * HOUR,
            "availability",
            "Owned 2 → 0, status active → exhausted",
            {"licenses_owned": (2, 0), "status": ("active", "exhausted")},
        ),
        HistoryEntry(
            NOON + HOUR,
            "availability",
            "Available 1 → 0, on hold 0 → 3",
            {"licenses_available": (1, 0), "patrons_in_hold_queue": (0, 3)},
        ),
    ]


def test_history_merges_all_entries_newest_first(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    apply_at(session, pool, NOON)
    apply_at(session, pool, NOON + 3 * HOUR, title="Solaris", licenses_owned=9)
    kinds = ("CHECKOUT", "CHECKIN", "HOLD", "RESERVED", "PURCHASE", "REMOVED", "MOVED")
    events = [event_data(kind, kind, at=NOON + (4 + n) * HOUR) for n, kind in enumerate(kinds)]
    record_events(session, collection, {"solaris": pool}, events)
    for purchase_date in (PurchaseDate(date(2024, 5, 1)), PurchaseDate(date(2016, 3, 1), month_only=True)):
        store_purchase_records(session, {purchase_date: [PurchaseRecordData(pool, lambda: b"marc", "hash")]})
    session.commit()

    entries = [(entry.at, entry.kind, entry.text) for entry in history(session)]

    assert entries == [
        (NOON + 10 * HOUR, "event", "Unknown event: MOVED"),
        (NOON + 9 * HOUR, "event", "Copy removed"),
        (NOON + 8 * HOUR, "event", "Copy added"),
        (NOON + 7 * HOUR, "event", "Copy reserved for a hold"),
        (NOON + 6 * HOUR, "event", "Hold placed"),
        (NOON + 5 * HOUR, "event", "Returned"),
        (NOON + 4 * HOUR, "event", "Checked out"),
        (NOON + 3 * HOUR, "changed", "Changed: title"),
        (NOON + 3 * HOUR, "availability", "Owned 2 → 9"),
        (day(2024, 5, 1), "purchased", "Purchased"),
        (day(2016, 3, 1), "purchased", "Purchased in 2016-03"),
    ]
    for limit in range(len(entries)):
        assert [(entry.at, entry.kind, entry.text) for entry in history(session, limit=limit)] == entries[
            :limit
        ]


def test_metadata_history_is_shared_and_counts_are_not(session: Session, pool: LicensePool) -> None:
    other = make_pool(session, make_collection(session, "Birch Library"), "solaris")
    apply_at(session, pool, NOON)
    apply_at(session, other, NOON)
    apply_at(session, pool, NOON + HOUR, title="Solaris", licenses_owned=9)

    assert [entry.kind for entry in history(session)] == ["changed", "availability"]
    assert [entry.kind for entry in title_history(session, "Birch Library", "solaris")] == ["changed"]


def test_history_is_deleted_with_its_pool(session: Session, pool: LicensePool) -> None:
    apply_at(session, pool, NOON)
    apply_at(session, pool, NOON + HOUR, licenses_owned=9)

    session.execute(delete(LicensePool))

    assert session.scalar(select(func.count()).select_from(TitleChange)) == 0


def test_history_of_unknown_title_raises_user_error(session: Session, pool: LicensePool) -> None:
    other = make_collection(session, "Birch Library")
    with pytest.raises(UserError, match=r'"Birch Library" holds no title with id "solaris": see `accession'):
        title_history(session, other.name, "solaris")
    with pytest.raises(UserError, match='No collection found named "Unknown Library"'):
        title_history(session, "Unknown Library", "solaris")
