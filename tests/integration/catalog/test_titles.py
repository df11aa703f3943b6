"""Views of titles, and the number of titles."""

from datetime import date, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog import titles as titles_module
from accession.catalog.contributors import OtherContributor
from accession.catalog.data import LinkData
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.titles import TitleView, count_titles, title_views
from accession.core.vocabulary import ContributorRole, Format, LinkRel, Medium
from accession.db.models import Collection, LicensePool
from tests.fixtures.factories import (
    NOON,
    apply_titles,
    make_collection,
    make_pool,
    person,
    subject,
    title_data,
)


def store_title(session: Session, collection: Collection, name: str, **fields: Any) -> LicensePool:
    pool = make_pool(session, collection, name)
    apply_titles(session, {pool.id: title_data(name, **fields)})
    session.commit()
    return pool


def identifiers(session: Session, **arguments: Any) -> list[str]:
    return [view.identifier for view in title_views(session, **arguments)]


def test_title_view_has_all_fields(session: Session, collection: Collection) -> None:
    pool = make_pool(session, collection, "solaris")
    for n in (7, 3, 5):
        purchase_date = PurchaseDate(date(2016, 5, n))
        store_purchase_records(session, {purchase_date: [PurchaseRecordData(pool, lambda: b"marc", "hash")]})
    with time_machine.travel(NOON, tick=False):
        apply_titles(
            session,
            {
                pool.id: title_data(
                    "solaris",
                    title="Solaris",
                    subtitle="Powieść",
                    contributors=(
                        person("Lem, Stanisław"),
                        person("Reader, Rita", ContributorRole.NARRATOR),
                        person("Abel, A"),
                        person("Lem, Stanisław", ContributorRole.NARRATOR),
                        person("Gaiman, Neil", ContributorRole.FOREWORD),
                        person("Itor, Ed", ContributorRole.EDITOR),
                        person("Inker, Ann", ContributorRole.ILLUSTRATOR),
                        person("Johnston, Bill", ContributorRole.TRANSLATOR),
                        person("Doe, Jane", ContributorRole.EDITOR),
                        person("Inker, Ann", ContributorRole.INKER),
                    ),
                    published="1961-06-01",
                    on_sale="1961-07",
                    isbns=("9788308068298", "9780156027601"),
                    subjects=(subject("Z"), subject("A")),
                    links=(
                        LinkData(rel=LinkRel.THUMBNAIL, href="https://images.example/small"),
                        LinkData(rel=LinkRel.COVER, href="https://images.example/1"),
                    ),
                    description="A planet thinks.",
                    page_count=204,
                    duration_ms=3_600_000,
                    medium=Medium.AUDIOBOOK,
                    format=Format.MP3,
                    licenses_owned=5,
                    licenses_available=3,
                    licenses_reserved=0,
                    patrons_in_hold_queue=2,
                )
            },
        )

    assert list(title_views(session)) == [
        TitleView(
            collection="Alder Library",
            identifier="solaris",
            title="Solaris",
            subtitle="Powieść",
            authors=("Stanisław Lem", "A Abel"),
            narrators=("Rita Reader", "Stanisław Lem"),
            editors=("Ed Itor", "Jane Doe"),
            translators=("Bill Johnston",),
            illustrators=("Ann Inker",),
            other_contributors=(
                OtherContributor("Neil Gaiman", "writer of foreword"),
                OtherContributor("Ann Inker", "inker"),
            ),
            medium="audiobook",
            format="mp3",
            language="pol",
            audience="general",
            publisher="Wydawnictwo",
            published="1961-06-01",
            on_sale="1961-07",
            isbns=("9788308068298", "9780156027601"),
            subjects=("Z", "A"),
            page_count=204,
            duration_ms=3_600_000,
            description="A planet thinks.",
            cover_url="https://images.example/1",
            licenses_owned=5,
            licenses_available=3,
            licenses_reserved=0,
            patrons_in_hold_queue=2,
            status="active",
            purchased_on="2016-05-03",
            warnings=(),
            updated_at=NOON,
        )
    ]


def test_title_without_metadata_is_listed(session: Session, collection: Collection) -> None:
    pool = make_pool(session, collection, "bare")
    store_title(session, collection, "with-metadata")

    bare, with_metadata = title_views(session)

    assert (bare.identifier, bare.title, bare.authors, bare.isbns, bare.subjects) == (
        "bare",
        None,
        (),
        (),
        (),
    )
    assert (bare.cover_url, bare.purchased_on, bare.status, bare.updated_at) == (
        None,
        None,
        "unknown",
        pool.updated_at,
    )
    assert with_metadata.title == "Title with-metadata"


def test_title_update_time_follows_metadata_and_counts(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON, tick=False):
        pool = store_title(session, collection, "abc")
    changes: list[dict[str, Any]] = [{"licenses_owned": 9}, {"licenses_owned": 9, "title": "New"}]
    for n, change in enumerate(changes, start=1):
        with time_machine.travel(NOON + timedelta(days=n), tick=False):
            apply_titles(session, {pool.id: title_data("abc", as_of=NOON + timedelta(days=n), **change)})
        assert next(title_views(session)).updated_at == NOON + timedelta(days=n)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 1000])
def test_titles_are_listed_in_import_order_in_batches(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    names = [f"t{n}" for n in (4, 2, 5, 1, 6, 3)]
    for name in names:
        store_title(session, collection, name, contributors=(person(f"Author {name}, X"),))
    monkeypatch.setattr(titles_module, "_BATCH", batch)

    assert identifiers(session) == names
    assert [view.authors for view in title_views(session)] == [(f"X Author {name}",) for name in names]
    for limit in range(8):
        assert identifiers(session, limit=limit) == names[:limit]


def test_titles_are_filtered_by_collection_and_identifier(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    for owner, name in ((collection, "a"), (collection, "b"), (other, "a")):
        store_title(session, owner, name)

    assert identifiers(session, collection="Alder Library") == ["a", "b"]
    assert identifiers(session, collection="Unknown Library") == []
    views = title_views(session, identifiers=["a"])
    assert [view.collection for view in views] == ["Alder Library", "Birch Library"]
    assert identifiers(session, collection="Birch Library", identifiers=["a"]) == ["a"]
    assert identifiers(session, identifiers=["c"]) == []


def test_titles_of_deleted_collection_are_not_listed_or_counted(
    session: Session, collection: Collection
) -> None:
    other = make_collection(session, "Birch Library")
    for owner, name in ((collection, "a"), (other, "a"), (other, "b")):
        store_title(session, owner, name)
    assert (count_titles(session), count_titles(session, collection="Birch Library")) == (3, 2)

    mark_for_deletion(other)
    session.commit()

    assert identifiers(session) == ["a"]
    assert (count_titles(session), count_titles(session, collection="Birch Library")) == (1, 0)


def test_title_without_authors_credits_the_editors(session: Session, collection: Collection) -> None:
    people = (
        person("Reader, Rita", ContributorRole.NARRATOR),
        person("Roe, Rick", ContributorRole.ILLUSTRATOR),
        person("Doe, Jane", ContributorRole.EDITOR),
        person("Itor, Ed", ContributorRole.EDITOR),
    )
    store_title(session, collection, "edited", contributors=people)
    store_title(session, collection, "written", contributors=(*people, person("Lem, Stanisław")))

    edited, written = title_views(session)

    assert edited.credits == ("Jane Doe (editor)", "Ed Itor (editor)")
    assert written.credits == ("Stanisław Lem",)
