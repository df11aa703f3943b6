"""Apply: metadata and counts are written to editions and pools, once and never with older data."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from accession.catalog.apply import ApplyResult, apply_outbox
from accession.catalog.data import ApplyData, LinkData, TitleData
from accession.catalog.outbox import enqueue_changes
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.search import find_titles, match_titles
from accession.catalog.title_filter import TitleFilter
from accession.catalog.titles import title_views
from accession.core.vocabulary import ContributorRole, Format, IdentifierType, LinkRel, Medium
from accession.db.engine import engine, transaction
from accession.db.models import (
    ApplyOutbox,
    Classification,
    Collection,
    Contribution,
    Contributor,
    Edition,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    Link,
    Subject,
)
from tests.fixtures.factories import (
    NOON,
    SOURCE,
    TIMEOUT_SECONDS,
    BackgroundThread,
    make_collection,
    make_pool,
    person,
    record_statements,
    run_concurrently,
    subject,
    title_data,
    wait_for_blocked,
)

HOUR = timedelta(hours=1)
APPLIED_TABLES = (
    "editions",
    "contributions",
    "contributors",
    "subjects",
    "classifications",
    "identifiers",
    "identifier_equivalents",
    "links",
    "license_pools",
    "title_changes",
)


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    return make_pool(session, collection, "solaris")


def make_pools(session: Session, collection: Collection, names: Sequence[str]) -> list[LicensePool]:
    pools = LicensePool.for_foreign_ids(
        session, SOURCE, IdentifierType.BIBLIOTHECA, names, collection=collection
    )
    session.commit()
    return [pools[name][0] for name in names]


def apply(session: Session, *titles: tuple[LicensePool, ApplyData]) -> ApplyResult:
    """Enqueue and apply titles in two transactions."""
    outbox_ids = enqueue_changes(session, titles)
    session.commit()
    result = apply_outbox(session, outbox_ids)
    session.commit()
    return result


def edition_of(session: Session, pool: LicensePool) -> Edition:
    session.expire_all()
    return session.scalars(select(Edition).filter_by(identifier_id=pool.identifier_id)).one()


def contributors_of(session: Session, pool: LicensePool) -> list[tuple[str, str, str]]:
    query = select(Contributor.sort_name, Contributor.display_name, Contribution.role)
    query = query.join(Contribution, Contribution.contributor_id == Contributor.id)
    query = query.where(Contribution.edition_id == edition_of(session, pool).id)
    return list(session.execute(query.order_by(Contribution.position)))


def subjects_of(session: Session, pool: LicensePool) -> list[str]:
    query = select(Subject.name).join(Classification, Classification.subject_id == Subject.id)
    query = query.where(Classification.edition_id == edition_of(session, pool).id)
    return list(session.scalars(query.order_by(Classification.position)))


def isbns_of(session: Session, pool: LicensePool) -> list[str]:
    query = select(Identifier.identifier).where(Identifier.type == IdentifierType.ISBN)
    query = query.join(IdentifierEquivalent, IdentifierEquivalent.equivalent_id == Identifier.id)
    query = query.where(IdentifierEquivalent.identifier_id == pool.identifier_id)
    return list(session.scalars(query.order_by(IdentifierEquivalent.position)))


def links_of(session: Session, pool: LicensePool) -> dict[str, str]:
    query = select(Link.rel, Link.href).where(Link.edition_id == edition_of(session, pool).id)
    return dict(session.execute(query).all())


def counts_and_status(session: Session, pool: LicensePool) -> tuple[int, int, int, int, str]:
    session.expire_all()
    return (
        pool.licenses_owned,
        pool.licenses_available,
        pool.licenses_reserved,
        pool.patrons_in_hold_queue,
        pool.status,
    )


def row_versions(session: Session) -> dict[str, list[str]]:
    """Return every row of the tables that an apply writes, with the transaction that wrote it."""
    return {
        name: list(session.scalars(text(f"SELECT t.xmin || t::text FROM {name} t ORDER BY 1")))  # noqa: S608
        for name in APPLIED_TABLES
    }


# Outbox rows


def test_row_that_no_longer_exists_is_skipped(session: Session, pool: LicensePool) -> None:
    outbox_ids = enqueue_changes(session, [(pool, title_data("solaris"))])
    assert apply_outbox(session, outbox_ids) == ApplyResult(editions=1, pools=1)
    session.commit()

    assert apply_outbox(session, [*outbox_ids, 4711]) == ApplyResult(0, 0)
    assert apply_outbox(session, []) == ApplyResult(0, 0)
    assert session.scalar(select(func.count()).select_from(ApplyOutbox)) == 0


def test_invalid_row_stays_in_the_outbox(session: Session, pool: LicensePool) -> None:
    outbox_ids = enqueue_changes(session, [(pool, title_data("solaris"))])
    session.scalars(select(ApplyOutbox)).one().data = {"bibliographic": {}}
    session.commit()

    with pytest.raises(ValueError, match="validation error"):
        apply_outbox(session, outbox_ids)
    session.rollback()

    assert session.scalar(select(func.count()).select_from(ApplyOutbox)) == 1


def test_only_the_given_rows_are_applied(session: Session, pool: LicensePool, collection: Collection) -> None:
    other = make_pool(session, collection, "other")
    (row_id, _) = enqueue_changes(session, [(pool, title_data("solaris")), (other, title_data("other"))])

    apply_outbox(session, [row_id])

    assert session.scalars(select(Edition.identifier_id)).all() == [pool.identifier_id]
    assert session.scalars(select(ApplyOutbox.license_pool_id)).all() == [other.id]


# Metadata and counts


def test_apply_stores_all_metadata_and_counts(session: Session, pool: LicensePool) -> None:
    result = apply(
        session,
        (
            pool,
            title_data(
                "solaris",
                title="Solaris",
                subtitle="Powieść",
                contributors=(
                    person("Lem, Stanisław"),
                    person("Kandel, Michael"),
                    person("Lem, Stanisław", ContributorRole.NARRATOR),
                ),
                publisher="Wydawnictwo MON",
                published="1961-06",
                on_sale="2014-02-03",
                language="pol",
                isbns=("9788308068298", "9780156027601"),
                subjects=(subject("FICTION / Science Fiction"), subject("FICTION / Classics")),
                description="A planet thinks.",
                links=(
                    LinkData(rel=LinkRel.COVER, href="https://images.example/1"),
                    LinkData(rel=LinkRel.THUMBNAIL, href="https://images.example/1?size=NORMAL"),
                ),
                page_count=204,
                duration_ms=3_000_000_000,
                medium=Medium.AUDIOBOOK,
                format=Format.MP3,
                licenses_owned=5,
                licenses_available=3,
                licenses_reserved=1,
                patrons_in_hold_queue=2,
            ),
        ),
    )

    assert result == ApplyResult(editions=1, pools=1)
    edition = edition_of(session, pool)
    assert (edition.title, edition.subtitle, edition.publisher) == ("Solaris", "Powieść", "Wydawnictwo MON")
    assert (edition.published, edition.on_sale, edition.language) == ("1961-06", "2014-02-03", "pol")
    assert (edition.description, edition.page_count, edition.duration_ms) == (
        "A planet thinks.",
        204,
        3_000_000_000,
    )
    assert (edition.medium, edition.format, edition.as_of) == ("audiobook", "mp3", NOON)
    assert contributors_of(session, pool) == [
        ("Lem, Stanisław", "Stanisław Lem", "author"),
        ("Kandel, Michael", "Michael Kandel", "author"),
        ("Lem, Stanisław", "Stanisław Lem", "narrator"),
    ]
    assert subjects_of(session, pool) == ["FICTION / Science Fiction", "FICTION / Classics"]
    assert isbns_of(session, pool) == ["9788308068298", "9780156027601"]
    assert links_of(session, pool) == {
        "cover": "https://images.example/1",
        "thumbnail": "https://images.example/1?size=NORMAL",
    }
    assert counts_and_status(session, pool) == (5, 3, 1, 2, "active")
    assert pool.circulation_as_of == NOON


def test_new_metadata_replaces_the_old_as_a_whole(session: Session, pool: LicensePool) -> None:
    apply(
        session,
        (
            pool,
            title_data(
                "solaris",
                subtitle="Powieść",
                contributors=(person("Lem, Stanisław"), person("Kandel, Michael")),
                subjects=(subject("FICTION / Classics"), subject("FICTION / General")),
                isbns=("9788308068298", "9780156027601"),
                links=(LinkData(rel=LinkRel.COVER, href="https://images.example/1"),),
            ),
        ),
    )
    apply(
        session,
        (
            pool,
            title_data(
                "solaris",
                as_of=NOON + HOUR,
                contributors=(person("Kandel, Michael"), person("Reader, Rita", ContributorRole.NARRATOR)),
                subjects=(subject("FICTION / General"),),
                isbns=("9780156027601",),
                links=(LinkData(rel=LinkRel.COVER, href="https://images.example/2"),),
                publisher=None,
                format=None,
            ),
        ),
    )

    edition = edition_of(session, pool)
    assert (edition.subtitle, edition.publisher, edition.format) == (None, None, None)
    assert edition.as_of == NOON + HOUR
    assert contributors_of(session, pool) == [
        ("Kandel, Michael", "Michael Kandel", "author"),
        ("Reader, Rita", "Rita Reader", "narrator"),
    ]
    assert subjects_of(session, pool) == ["FICTION / General"]
    assert isbns_of(session, pool) == ["9780156027601"]
    assert links_of(session, pool) == {"cover": "https://images.example/2"}


def test_new_order_of_contributors_is_stored(session: Session, pool: LicensePool) -> None:
    people = (person("Abel, A"), person("Bell, B"), person("Cole, C"))
    apply(session, (pool, title_data("solaris", contributors=people)))

    apply(session, (pool, title_data("solaris", contributors=people[::-1])))

    assert [name for name, _, _ in contributors_of(session, pool)] == ["Cole, C", "Bell, B", "Abel, A"]


def test_duplicate_values_are_stored_once(session: Session, pool: LicensePool) -> None:
    apply(
        session,
        (
            pool,
            title_data(
                "solaris",
                contributors=(person("Lem, S"), person("Abel, A"), person("Lem, S")),
                subjects=(subject("X"), subject("Y"), subject("X")),
                isbns=("9788308068298", "9788308068298"),
                links=(LinkData(rel=LinkRel.COVER, href="https://images.example/1"),) * 2,
            ),
        ),
    )

    assert [name for name, _, _ in contributors_of(session, pool)] == ["Lem, S", "Abel, A"]
    assert subjects_of(session, pool) == ["X", "Y"]
    assert isbns_of(session, pool) == ["9788308068298"]
    assert len(links_of(session, pool)) == 1


def test_longest_names_fit_the_indexes(session: Session, pool: LicensePool) -> None:
    """Four-byte characters without repetition cannot be compressed by PostgreSQL."""
    long = "".join(chr(0x20000 + n * 37 % 40_000) for n in range(1000))
    address = "https://images.example/" + "".join(f"{n * n % 1_000_003:x}" for n in range(1000))
    title = title_data(
        "solaris",
        contributors=(person(long),),
        subjects=(subject(long),),
        links=(LinkData(rel=LinkRel.COVER, href=address[:2000]),),
    )

    apply(session, (pool, title))

    assert subjects_of(session, pool) == [long[:300]]
    assert links_of(session, pool) == {"cover": address[:2000]}


def test_changed_title_is_found_by_its_new_words(session: Session, pool: LicensePool) -> None:
    def search(words: str) -> int:
        return len(find_titles(session, match_titles(session, TitleFilter(words))).titles)

    apply(session, (pool, title_data("solaris", title="Solaris", subtitle="Powieść")))
    assert (search("solaris powiesc"), search("eden")) == (1, 0)

    apply(session, (pool, title_data("solaris", title="Eden")))
    assert (search("solaris powiesc"), search("eden")) == (0, 1)


def test_repeated_apply_writes_nothing(session: Session, pool: LicensePool) -> None:
    title = (pool, title_data("solaris"))
    apply(session, title)
    before = row_versions(session)

    assert apply(session, title) == ApplyResult(0, 0)
    assert apply(session, (pool, title_data("solaris", as_of=NOON + HOUR))) == ApplyResult(0, 0)

    assert row_versions(session) == before


def unrelated_title(number: int, **changes: Any) -> TitleData:
    """Return a title that shares no contributor, subject, ISBN or link with others."""
    return title_data(
        f"t{number}",
        contributors=(
            person(f"Author {number}, A"),
            person(f"Reader {number}, R", ContributorRole.NARRATOR),
        ),
        subjects=(subject(f"FICTION / {number}"), subject(f"HISTORY / {number}")),
        isbns=(f"97883080{number:05}", f"97801560{number:05}"),
        links=(LinkData(rel=LinkRel.COVER, href=f"https://images.example/{number}"),),
        **changes,
    )


def test_number_of_statements_does_not_depend_on_titles(session: Session, collection: Collection) -> None:
    def count_statements(numbers: Sequence[int], **changes: Any) -> tuple[ApplyResult, int, int]:
        """Return the result of an apply, its number of statements and of those that write."""
        titles = [unrelated_title(number, **changes) for number in numbers]
        pools = make_pools(session, collection, [title.identifier for title in titles])
        outbox_ids = enqueue_changes(session, list(zip(pools, titles, strict=True)))
        session.commit()
        with record_statements(engine()) as statements:
            result = apply_outbox(session, outbox_ids)
            session.commit()
        writes = [each for each in statements if each.startswith(("INSERT", "UPDATE", "DELETE"))]
        return result, len(statements), len(writes)

    few, many = range(5), range(10, 60)
    # Two begin with UPDATE and DELETE: pools, outbox rows. Others begin with a CTE and read or add editions,
    # contributors, subjects and ISBNs, and insert their joins and links. One looks for webhooks.
    assert count_statements(few) == (ApplyResult(5, 5), 10, 2)
    assert count_statements(many) == (ApplyResult(50, 50), 10, 2)
    # Reads the previous values and records the change.
    changed: dict[str, Any] = {"title": "Another", "licenses_owned": 9, "as_of": NOON + HOUR}
    assert count_statements(few, **changed) == (ApplyResult(5, 5), 16, 4)
    assert count_statements(many, **changed) == (ApplyResult(50, 50), 16, 4)
    assert count_statements(few, **changed) == (ApplyResult(0, 0), 5, 1)
    assert count_statements(many, **changed) == (ApplyResult(0, 0), 5, 1)


def test_hash_of_another_version_is_computed_again(session: Session, pool: LicensePool) -> None:
    title = title_data("solaris")
    (row_id,) = enqueue_changes(session, [(pool, title)])
    row = session.get_one(ApplyOutbox, row_id)
    assert row.data["metadata_hash"] == title.bibliographic.content_hash()
    row.data = {**row.data, "metadata_hash": "0:another way to hash"}
    session.flush()
    apply_outbox(session, [row_id])
    assert session.scalars(select(Edition.content_hash)).one() == title.bibliographic.content_hash()


def test_unchanged_edition_is_not_locked(session: Session, pool: LicensePool) -> None:
    apply(session, (pool, title_data("solaris")))
    title = title_data("solaris", as_of=NOON + HOUR, licenses_owned=9)
    row_ids = enqueue_changes(session, [(pool, title)])
    session.commit()

    with transaction() as holder:
        holder.execute(select(Edition).with_for_update())
        apply_concurrently(row_ids)

    assert counts_and_status(session, pool)[0] == 9


def test_changed_counts_do_not_write_the_edition(session: Session, pool: LicensePool) -> None:
    apply(session, (pool, title_data("solaris")))
    before = row_versions(session)

    result = apply(session, (pool, title_data("solaris", as_of=NOON + HOUR, licenses_available=0)))

    assert result == ApplyResult(editions=0, pools=1)
    written: dict[str, list[str]] = {"license_pools": [], "title_changes": []}
    assert row_versions(session) | written == before | written
    assert pool.circulation_as_of == NOON + HOUR


def test_counts_without_metadata_add_no_edition(session: Session, pool: LicensePool) -> None:
    counts = title_data("solaris").circulation

    assert apply(session, (pool, ApplyData(circulation=counts))) == ApplyResult(editions=0, pools=1)

    assert session.scalar(select(func.count()).select_from(Edition)) == 0
    assert counts_and_status(session, pool) == (2, 1, 0, 0, "active")


def test_older_metadata_with_newer_counts_applies_counts_only(session: Session, pool: LicensePool) -> None:
    apply(session, (pool, title_data("solaris", title="Known")))
    old = title_data("solaris", as_of=NOON - HOUR, title="Old")
    new = title_data("solaris", as_of=NOON + HOUR, licenses_owned=9)
    mixed = old.model_copy(update={"circulation": new.circulation})

    assert apply(session, (pool, mixed)) == ApplyResult(editions=0, pools=1)

    assert edition_of(session, pool).title == "Known"
    assert counts_and_status(session, pool)[0] == 9


def test_older_counts_with_newer_metadata_apply_metadata_only(session: Session, pool: LicensePool) -> None:
    apply(session, (pool, title_data("solaris")))
    old = title_data("solaris", as_of=NOON - HOUR, licenses_owned=9)
    new = title_data("solaris", as_of=NOON + HOUR, title="New")
    mixed = old.model_copy(update={"bibliographic": new.bibliographic})

    assert apply(session, (pool, mixed)) == ApplyResult(editions=1, pools=0)

    assert edition_of(session, pool).title == "New"
    assert counts_and_status(session, pool)[0] == 2


def test_pool_without_copies_is_exhausted_until_it_has_one(session: Session, pool: LicensePool) -> None:
    assert counts_and_status(session, pool)[-1] == "unknown"

    apply(session, (pool, title_data("solaris", licenses_owned=0, licenses_available=0)))
    assert counts_and_status(session, pool) == (0, 0, 0, 0, "exhausted")

    apply(session, (pool, title_data("solaris", licenses_owned=1, licenses_available=1)))
    assert counts_and_status(session, pool) == (1, 1, 0, 0, "active")


def test_reserved_copies_are_kept_if_not_reported(session: Session, pool: LicensePool) -> None:
    apply(session, (pool, title_data("solaris", licenses_reserved=4)))

    apply(session, (pool, title_data("solaris", licenses_owned=7)))

    assert counts_and_status(session, pool) == (7, 1, 4, 0, "active")


def test_metadata_of_another_source_is_stored_separately(session: Session, pool: LicensePool) -> None:
    title = title_data("solaris", isbns=("9788308068298",))
    other = title_data("solaris", isbns=("9780156027601",))
    other = other.model_copy(
        update={"bibliographic": other.bibliographic.model_copy(update={"data_source": "Another"})}
    )

    apply(session, (pool, title))
    apply(session, (pool, other))

    assert sorted(isbns_of(session, pool)) == ["9780156027601", "9788308068298"]
    assert session.scalar(select(func.count()).select_from(Edition)) == 2


# Several collections and workers


def test_collections_share_an_edition_but_not_counts(session: Session, pool: LicensePool) -> None:
    other = make_pool(session, make_collection(session, "Birch Library"), "solaris")

    result = apply(
        session,
        (pool, title_data("solaris", licenses_owned=1)),
        (other, title_data("solaris", licenses_owned=7)),
    )

    assert result == ApplyResult(editions=1, pools=2)
    assert session.scalar(select(func.count()).select_from(Edition)) == 1
    assert (counts_and_status(session, pool)[0], counts_and_status(session, other)[0]) == (1, 7)


@pytest.mark.parametrize("newer_first", [True, False])
def test_newest_metadata_of_two_collections_is_applied(
    session: Session, pool: LicensePool, newer_first: bool
) -> None:
    other = make_pool(session, make_collection(session, "Birch Library"), "solaris")
    titles = [title_data("solaris", as_of=NOON + HOUR, title="New"), title_data("solaris", title="Old")]

    apply(session, *zip((pool, other), titles if newer_first else titles[::-1], strict=True))

    assert edition_of(session, pool).title == "New"


def apply_concurrently(*batches: Sequence[int]) -> None:
    """Apply each batch of outbox rows in its own transaction and thread; all start together."""
    barrier = threading.Barrier(len(batches), timeout=TIMEOUT_SECONDS)

    def apply_batch(outbox_ids: Sequence[int]) -> None:
        with transaction() as writer:
            writer.execute(select(1))
            barrier.wait()
            apply_outbox(writer, outbox_ids)

    run_concurrently(*[lambda batch=batch: apply_batch(batch) for batch in batches])


@pytest.mark.parametrize("known", [True, False], ids=["known titles", "new titles"])
def test_concurrent_applies_of_overlapping_pages_are_consistent(
    session: Session, collection: Collection, known: bool
) -> None:
    """Three collections hold the same titles, and their workers apply overlapping pages at once."""
    names = [f"t{n:02}" for n in range(40)]
    others = [make_collection(session, f"{name} Library") for name in ("Birch", "Cedar")]
    pools = [make_pools(session, owner, names) for owner in (collection, *others)]
    if known:
        apply(session, *((pool, title_data(name)) for pool, name in zip(pools[0], names, strict=True)))

    def enqueue_page(word: str, number: int, page: slice) -> list[int]:
        titles = [
            title_data(
                name,
                as_of=NOON + number * HOUR,
                title=word,
                contributors=tuple(person(f"{word} {n}, X") for n in range(5)),
                subjects=tuple(subject(f"{word} {n}") for n in range(5)),
                isbns=(f"97800000000{number:02}",),
                licenses_owned=number,
            )
            for name in names[page]
        ]
        return enqueue_changes(session, list(zip(pools[number - 1][page], titles, strict=True)))

    pages = [
        enqueue_page("One", 1, slice(30)),
        enqueue_page("Two", 2, slice(10, 40))[::-1],
        enqueue_page("Three", 3, slice(5, 35)),
    ]
    session.commit()

    apply_concurrently(*pages)

    session.expire_all()
    views = {(view.collection, view.identifier): view for view in title_views(session)}
    for n, name in enumerate(names):
        word, number = ("One", 1) if n < 5 else ("Three", 3) if n < 35 else ("Two", 2)
        view = views["Alder Library", name]
        assert view.title == word
        assert view.authors == tuple(f"X {word} {i}" for i in range(5))
        assert view.subjects == tuple(f"{word} {i}" for i in range(5))
        assert view.isbns == (f"97800000000{number:02}",)
    counts = {
        "Alder Library": (names[:30], 1),
        "Birch Library": (names[10:], 2),
        "Cedar Library": (names[5:35], 3),
    }
    for owner, (page, number) in counts.items():
        assert {views[owner, name].licenses_owned for name in page} == {number}


def test_concurrent_applies_of_the_same_rows_apply_them_once(
    session: Session, collection: Collection
) -> None:
    names = [f"t{n:02}" for n in range(10)]
    pools = make_pools(session, collection, names)
    titles = [(pool, title_data(name)) for pool, name in zip(pools, names, strict=True)]
    row_ids = enqueue_changes(session, titles)
    session.commit()

    apply_concurrently(row_ids, row_ids[::-1], row_ids[5:])

    assert session.scalar(select(func.count()).select_from(ApplyOutbox)) == 0
    assert {counts_and_status(session, pool)[:2] for pool in pools} == {(2, 1)}
    assert session.scalar(select(func.count()).select_from(Edition)) == 10


def test_concurrent_applies_of_one_new_title_add_one_edition(session: Session, pool: LicensePool) -> None:
    other = make_pool(session, make_collection(session, "Birch Library"), "solaris")
    titles = [
        (pool, title_data("solaris", title="Same", licenses_owned=1)),
        (other, title_data("solaris", title="Same", licenses_owned=7)),
    ]
    first, second = enqueue_changes(session, titles)
    session.commit()

    apply_concurrently([first], [second])

    assert edition_of(session, pool).title == "Same"
    assert (counts_and_status(session, pool)[0], counts_and_status(session, other)[0]) == (1, 7)


def test_page_waits_for_an_apply_of_the_same_title(
    session: Session, pool: LicensePool, collection: Collection
) -> None:
    """No deadlock: the page has locked the pool by its purchase record and waits for the outbox row.

    The apply holds the outbox row and has not written the pool yet.
    """
    apply(session, (pool, title_data("solaris")))
    (row_id,) = enqueue_changes(session, [(pool, title_data("solaris", title="One", licenses_owned=1))])
    session.commit()
    pool_id = pool.id

    def import_page() -> None:
        with transaction() as writer:
            same_pool = writer.get_one(LicensePool, pool_id)
            record = PurchaseRecordData(same_pool, lambda: b"marc", "hash")
            store_purchase_records(writer, {PurchaseDate(NOON.date()): [record]})
            enqueue_changes(writer, [(same_pool, title_data("solaris", title="Two", licenses_owned=2))])

    def apply_row() -> None:
        with transaction() as writer:
            apply_outbox(writer, [row_id])

    with transaction() as holder:
        holder.execute(select(Edition).with_for_update())
        applying = BackgroundThread(apply_row)
        wait_for_blocked(holder.connection(), 1)
        importing = BackgroundThread(import_page)
        wait_for_blocked(holder.connection(), 2)
    applying.finish()
    importing.finish()

    assert edition_of(session, pool).title == "One"
    row = session.scalars(select(ApplyOutbox)).one()
    assert TitleData.model_validate(row.data).bibliographic.title == "Two"


def test_page_and_apply_lock_outbox_rows_in_the_same_order(
    session: Session, pool: LicensePool, collection: Collection
) -> None:
    """Both lock by pool id: the row of the later pool has the smaller id here."""
    later = make_pool(session, collection, "later")
    ids = {"solaris": pool.id, "later": later.id}
    (old_row,) = enqueue_changes(session, [(later, title_data("later"))])
    (new_row,) = enqueue_changes(session, [(pool, title_data("solaris"))])
    session.commit()

    def import_page() -> None:
        with transaction() as writer:
            titles = [(writer.get_one(LicensePool, ids[name]), title_data(name, title="X")) for name in ids]
            enqueue_changes(writer, titles)

    def apply_rows() -> None:
        with transaction() as writer:
            apply_outbox(writer, [old_row, new_row])

    with transaction() as holder:
        holder.execute(select(ApplyOutbox).filter_by(id=new_row).with_for_update())
        importing = BackgroundThread(import_page)
        wait_for_blocked(holder.connection(), 1)
        applying = BackgroundThread(apply_rows)
        wait_for_blocked(holder.connection(), 2)
    importing.finish()
    applying.finish()

    assert session.scalars(select(Edition.title)).all() == ["X", "X"]
