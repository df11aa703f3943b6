"""What a vendor says becomes what the catalogue holds: authoritatively, once, and never backwards."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from accession.catalog.apply import ApplyResult, apply_outbox
from accession.catalog.data import ApplyData, LinkData, TitleData
from accession.catalog.outbox import enqueue_changes, find_changed_titles, split_by_metadata
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
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
    TIMEOUT_SECONDS,
    BackgroundThread,
    apply_titles,
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


def apply(session: Session, *titles: tuple[LicensePool, ApplyData]) -> ApplyResult:
    """All the way: through the outbox, each step committed."""
    outbox_ids = enqueue_changes(session, titles)
    session.commit()
    applied = apply_outbox(session, outbox_ids)
    session.commit()
    return applied


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


def counts_of(session: Session, pool: LicensePool) -> tuple[int, int, int, int, str]:
    session.expire_all()
    return (
        pool.licenses_owned,
        pool.licenses_available,
        pool.licenses_reserved,
        pool.patrons_in_hold_queue,
        pool.status,
    )


def versions(session: Session) -> dict[str, list[str]]:
    """Every row of the tables that an apply writes, with the transaction that wrote it."""
    tables = (
        "editions contributions contributors subjects classifications identifiers identifier_equivalents"
        " links license_pools title_changes"
    )
    return {
        name: list(session.scalars(text(f"SELECT t.xmin || t::text FROM {name} t ORDER BY 1")))  # noqa: S608
        for name in tables.split()
    }


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    return make_pool(session, collection, "solaris")


# What needs apply


def test_a_page_is_compared_in_one_query(session: Session, collection: Collection) -> None:
    names = [f"t{n}" for n in range(50)]

    def pools() -> dict[str, tuple[LicensePool, bool]]:
        return LicensePool.for_foreign_ids(
            session, "Bibliotheca", IdentifierType.BIBLIOTHECA, names, collection=collection
        )

    apply(session, *((pools()[name][0], title_data(name)) for name in names[:25]))
    titles = [(pools()[name][0], title_data(name)) for name in names]

    with record_statements(engine()) as sent:
        found = find_changed_titles(session, titles)

    assert len(sent) == 1
    assert [pool.identifier.identifier for pool, _ in found] == names[25:]


def test_a_new_title_needs_apply_and_an_applied_one_does_not(session: Session, pool: LicensePool) -> None:
    title = (pool, title_data("solaris"))
    assert find_changed_titles(session, [title]) == [title]

    apply(session, title)

    assert find_changed_titles(session, [title]) == []
    assert find_changed_titles(session, [(pool, title_data("solaris", as_of=NOON + HOUR))]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Another title"},
        {"contributors": ()},
        {"licenses_owned": 3},
        {"licenses_available": 0},
        {"patrons_in_hold_queue": 1},
        {"licenses_reserved": 1},
    ],
)
def test_any_difference_needs_apply_unless_it_is_older(
    session: Session, pool: LicensePool, change: dict[str, Any]
) -> None:
    apply(session, (pool, title_data("solaris")))

    def needs(as_of: Any) -> bool:
        return bool(find_changed_titles(session, [(pool, title_data("solaris", as_of=as_of, **change))]))

    assert needs(NOON + HOUR)
    assert needs(NOON)
    assert not needs(NOON - HOUR)


def test_counts_changed_by_someone_else_are_seen_in_the_live_columns(
    session: Session, pool: LicensePool
) -> None:
    title = (pool, title_data("solaris", as_of=NOON + HOUR))
    apply(session, title)
    pool.licenses_available = 0
    session.commit()

    (counted,) = find_changed_titles(session, [title])
    assert counted == (pool, ApplyData(circulation=title[1].circulation))
    assert apply(session, counted) == ApplyResult(editions=0, pools=1)
    assert counts_of(session, pool)[:2] == (2, 1)


@pytest.mark.parametrize("pending", [False, True])
def test_counts_without_a_description_are_compared_with_the_counts_alone(
    session: Session, pool: LicensePool, pending: bool
) -> None:
    apply(session, (pool, title_data("solaris")))
    if pending:
        enqueue_changes(session, [(pool, title_data("solaris", licenses_owned=3))])

    def needed(hours: int, **changes: Any) -> bool:
        counts = title_data("solaris", as_of=NOON + hours * HOUR, **changes).circulation
        word = (pool, ApplyData(circulation=counts))
        found = find_changed_titles(session, [word])
        assert found in ([], [word])
        return bool(found)

    assert needed(1, licenses_owned=0, licenses_available=0)
    assert needed(1) == pending
    assert needed(-1, licenses_owned=9) == pending


def test_an_edition_of_another_source_is_no_description_by_this_one(
    session: Session, pool: LicensePool
) -> None:
    session.add(
        Edition(
            data_source="Another",
            identifier_id=pool.identifier_id,
            content_hash=title_data("solaris").bibliographic.content_hash(),
            created_at=NOON,
            updated_at=NOON,
        )
    )
    session.flush()

    assert len(find_changed_titles(session, [(pool, title_data("solaris"))])) == 1


def test_a_title_that_is_again_as_stored_needs_apply_while_something_else_is_pending(
    session: Session, pool: LicensePool
) -> None:
    """Else what the vendor has taken back would be applied after all."""
    apply(session, (pool, title_data("solaris")))
    enqueue_changes(session, [(pool, title_data("solaris", as_of=NOON + HOUR, title="A slip"))])
    session.commit()
    as_before = (pool, title_data("solaris", as_of=NOON + 2 * HOUR))

    assert find_changed_titles(session, [as_before]) == [as_before]
    assert apply(session, as_before) == ApplyResult(0, 0)
    assert edition_of(session, pool).title == "Title solaris"


# The outbox


def test_a_later_word_takes_the_place_of_the_earlier(session: Session, pool: LicensePool) -> None:
    first = enqueue_changes(session, [(pool, title_data("solaris", title="First"))])
    again = enqueue_changes(
        session,
        [(pool, title_data("solaris", title="Second")), (pool, title_data("solaris", title="Third"))],
    )
    session.commit()

    assert first == again
    row = session.scalars(select(ApplyOutbox)).one()
    assert TitleData.model_validate(row.data).bibliographic.title == "Third"


@pytest.mark.parametrize("together", [True, False])
def test_an_earlier_word_that_comes_late_does_not_take_the_place_of_the_later(
    session: Session, pool: LicensePool, together: bool
) -> None:
    later = (pool, title_data("solaris", as_of=NOON + HOUR, title="Later"))
    earlier = (pool, title_data("solaris", as_of=NOON, title="Earlier"))

    if together:
        enqueue_changes(session, [later, earlier])
    else:
        enqueue_changes(session, [later])
        assert enqueue_changes(session, [earlier]) == []

    row = session.scalars(select(ApplyOutbox)).one()
    assert TitleData.model_validate(row.data).bibliographic.title == "Later"


def test_counts_alone_leave_a_description_that_is_still_to_be_applied(
    session: Session, pool: LicensePool
) -> None:
    described = enqueue_changes(session, [(pool, title_data("solaris", title="Described"))])
    counts = title_data("solaris", as_of=NOON + HOUR, licenses_owned=7).circulation

    assert enqueue_changes(session, [(pool, ApplyData(circulation=counts))]) == described

    assert split_by_metadata(session, described) == (described, [])
    assert apply_outbox(session, described) == ApplyResult(editions=1, pools=1)
    session.commit()
    assert edition_of(session, pool).title == "Described"
    assert counts_of(session, pool)[0] == 7


def test_a_description_joins_counts_that_wait_alone_and_is_left_for_its_own_message(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    other = make_pool(session, collection, "other")
    counts = ApplyData(circulation=title_data("solaris").circulation)
    row_ids = enqueue_changes(session, [(pool, counts), (other, counts)])
    assert split_by_metadata(session, [*row_ids, 4711]) == ([], row_ids)
    enqueue_changes(session, [(pool, title_data("solaris", as_of=NOON + HOUR))])

    assert apply_outbox(session, row_ids, counts_only=True) == ApplyResult(editions=0, pools=1)
    session.commit()

    left = session.scalars(select(ApplyOutbox)).one()
    assert (left.license_pool_id, split_by_metadata(session, row_ids)) == (pool.id, ([left.id], []))
    assert counts_of(session, other)[:2] == (2, 1)
    assert counts_of(session, pool)[:2] == (0, 0)


def test_older_counts_do_not_take_the_place_of_those_beside_a_description(
    session: Session, pool: LicensePool
) -> None:
    described = enqueue_changes(session, [(pool, title_data("solaris", licenses_owned=3))])
    counts = title_data("solaris", as_of=NOON - HOUR, licenses_owned=7).circulation

    assert enqueue_changes(session, [(pool, ApplyData(circulation=counts))]) == []

    assert apply_outbox(session, described) == ApplyResult(editions=1, pools=1)
    session.commit()
    assert counts_of(session, pool)[0] == 3


def test_an_older_description_does_not_take_the_place_of_counts_that_wait_alone(
    session: Session, pool: LicensePool
) -> None:
    counts = title_data("solaris", as_of=NOON + HOUR, licenses_owned=7).circulation
    row_ids = enqueue_changes(session, [(pool, ApplyData(circulation=counts))])

    assert enqueue_changes(session, [(pool, title_data("solaris"))]) == []

    assert split_by_metadata(session, row_ids) == ([], row_ids)
    assert apply_outbox(session, row_ids, counts_only=True) == ApplyResult(editions=0, pools=1)
    session.commit()
    assert counts_of(session, pool)[0] == 7


def test_counts_that_wait_alone_give_way_to_later_ones(session: Session, pool: LicensePool) -> None:
    def put(hours: int, owned: int) -> list[int]:
        counts = title_data("solaris", as_of=NOON + hours * HOUR, licenses_owned=owned).circulation
        return enqueue_changes(session, [(pool, ApplyData(circulation=counts))])

    row_ids = put(1, 4)
    assert put(2, 5) == row_ids
    assert put(0, 6) == []

    apply_outbox(session, row_ids)
    session.commit()
    assert counts_of(session, pool)[0] == 5


def test_nothing_to_apply_is_nothing_in_the_outbox(session: Session) -> None:
    with record_statements(engine()) as sent:
        assert enqueue_changes(session, []) == []
        assert apply_titles(session, {}) == ApplyResult(0, 0)

    assert sent == []


def test_rows_that_are_gone_have_been_applied_already(session: Session, pool: LicensePool) -> None:
    outbox_ids = enqueue_changes(session, [(pool, title_data("solaris"))])
    assert apply_outbox(session, outbox_ids) == ApplyResult(editions=1, pools=1)
    session.commit()

    assert apply_outbox(session, [*outbox_ids, 4711]) == ApplyResult(0, 0)
    assert session.scalar(select(func.count()).select_from(ApplyOutbox)) == 0


def test_a_row_that_cannot_be_applied_stays(session: Session, pool: LicensePool) -> None:
    outbox_ids = enqueue_changes(session, [(pool, title_data("solaris"))])
    session.scalars(select(ApplyOutbox)).one().data = {"bibliographic": {}}
    session.commit()

    with pytest.raises(ValueError, match="validation error"):
        apply_outbox(session, outbox_ids)
    session.rollback()

    assert session.scalar(select(func.count()).select_from(ApplyOutbox)) == 1


def test_only_the_named_rows_are_applied(session: Session, pool: LicensePool, collection: Collection) -> None:
    other = make_pool(session, collection, "other")
    (mine, _) = enqueue_changes(session, [(pool, title_data("solaris")), (other, title_data("other"))])

    apply_outbox(session, [mine])

    assert session.scalars(select(Edition.identifier_id)).all() == [pool.identifier_id]
    assert session.scalars(select(ApplyOutbox.license_pool_id)).all() == [other.id]


def test_a_pool_that_is_deleted_takes_its_outbox_row_along(session: Session, pool: LicensePool) -> None:
    outbox_ids = enqueue_changes(session, [(pool, title_data("solaris"))])
    session.execute(delete(LicensePool))
    session.commit()

    assert apply_outbox(session, outbox_ids) == ApplyResult(0, 0)


# The apply


def test_everything_the_vendor_says_is_stored(session: Session, pool: LicensePool) -> None:
    applied = apply(
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

    assert applied == ApplyResult(editions=1, pools=1)
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
    assert counts_of(session, pool) == (5, 3, 1, 2, "active")
    assert pool.circulation_as_of == NOON


def test_a_second_description_replaces_the_first_as_a_whole(session: Session, pool: LicensePool) -> None:
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


def test_a_new_order_alone_is_stored_too(session: Session, pool: LicensePool) -> None:
    people = (person("Abel, A"), person("Bell, B"), person("Cole, C"))
    apply(session, (pool, title_data("solaris", contributors=people)))

    apply(session, (pool, title_data("solaris", contributors=people[::-1])))

    assert [name for name, _, _ in contributors_of(session, pool)] == ["Cole, C", "Bell, B", "Abel, A"]


def test_what_a_source_says_twice_is_stored_once(session: Session, pool: LicensePool) -> None:
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


def test_names_as_long_as_they_may_be_fit_their_indexes(session: Session, pool: LicensePool) -> None:
    """Characters of four bytes that do not repeat, so that PostgreSQL cannot compress them."""
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


def test_an_apply_run_again_writes_nothing(session: Session, pool: LicensePool) -> None:
    title = (pool, title_data("solaris"))
    apply(session, title)
    before = versions(session)

    assert apply(session, title) == ApplyResult(0, 0)
    assert apply(session, (pool, title_data("solaris", as_of=NOON + HOUR))) == ApplyResult(0, 0)

    assert versions(session) == before


def with_its_own(number: int, **changes: Any) -> TitleData:
    """A title that shares nothing with others."""
    return title_data(
        f"t{number}",
        contributors=(person(f"Author {number}, A"), person(f"Reader {number}, R", ContributorRole.NARRATOR)),
        subjects=(subject(f"FICTION / {number}"), subject(f"HISTORY / {number}")),
        isbns=(f"97883080{number:05}", f"97801560{number:05}"),
        links=(LinkData(rel=LinkRel.COVER, href=f"https://images.example/{number}"),),
        **changes,
    )


def test_many_titles_take_as_many_statements_as_a_few(session: Session, collection: Collection) -> None:
    def statements(numbers: Sequence[int], **changes: Any) -> tuple[ApplyResult, int, int]:
        """What an apply has written, and in how many statements, of which so many write."""
        titles = [with_its_own(n, **changes) for n in numbers]
        pools = [make_pool(session, collection, title.identifier) for title in titles]
        outbox_ids = enqueue_changes(session, list(zip(pools, titles, strict=True)))
        session.commit()
        with record_statements(engine()) as sent:
            applied = apply_outbox(session, outbox_ids)
            session.commit()
        return applied, len(sent), sum(each.startswith(("INSERT", "UPDATE", "DELETE")) for each in sent)

    few, many = range(5), range(10, 60)
    # Editions, contributors, subjects, ISBNs, what joins them, links, and pools; and the outbox's row.
    assert statements(few) == (ApplyResult(5, 5), 22, 10)
    assert statements(many) == (ApplyResult(50, 50), 22, 10)
    # Of what changes, how it was is read and kept.
    changed: dict[str, Any] = {"title": "Another", "licenses_owned": 9, "as_of": NOON + HOUR}
    assert statements(few, **changed) == (ApplyResult(5, 5), 18, 4)
    assert statements(many, **changed) == (ApplyResult(50, 50), 18, 4)
    assert statements(few, **changed) == (ApplyResult(0, 0), 6, 1)
    assert statements(many, **changed) == (ApplyResult(0, 0), 6, 1)


def test_an_edition_that_is_as_it_should_be_is_not_waited_for(session: Session, pool: LicensePool) -> None:
    apply(session, (pool, title_data("solaris")))
    pool_id = pool.id
    session.commit()

    with transaction() as holder:
        holder.execute(select(Edition).with_for_update())
        apply_at_once([(pool_id, title_data("solaris", as_of=NOON + HOUR, licenses_owned=9))])

    assert counts_of(session, pool)[0] == 9


def test_counts_alone_leave_the_edition_as_it_is(session: Session, pool: LicensePool) -> None:
    apply(session, (pool, title_data("solaris")))
    before = versions(session)

    applied = apply(session, (pool, title_data("solaris", as_of=NOON + HOUR, licenses_available=0)))

    assert applied == ApplyResult(editions=0, pools=1)
    written: dict[str, list[str]] = {"license_pools": [], "title_changes": []}
    assert versions(session) | written == before | written
    assert pool.circulation_as_of == NOON + HOUR


def test_counts_of_a_title_that_nobody_has_described_make_no_edition(
    session: Session, pool: LicensePool
) -> None:
    counts = title_data("solaris").circulation

    assert apply_titles(session, {pool.id: ApplyData(circulation=counts)}) == ApplyResult(editions=0, pools=1)
    session.commit()

    assert session.scalar(select(func.count()).select_from(Edition)) == 0
    assert counts_of(session, pool) == (2, 1, 0, 0, "active")


def test_an_older_description_is_not_applied_and_newer_counts_beside_it_are(
    session: Session, pool: LicensePool
) -> None:
    apply(session, (pool, title_data("solaris", title="Known")))
    old = title_data("solaris", as_of=NOON - HOUR, title="Old")
    new = title_data("solaris", as_of=NOON + HOUR, licenses_owned=9)

    assert apply(session, (pool, old.model_copy(update={"circulation": new.circulation}))) == ApplyResult(
        0, 1
    )

    assert edition_of(session, pool).title == "Known"
    assert counts_of(session, pool)[0] == 9


def test_older_counts_are_not_applied_and_a_newer_description_beside_them_is(
    session: Session, pool: LicensePool
) -> None:
    apply(session, (pool, title_data("solaris")))
    old = title_data("solaris", as_of=NOON - HOUR, licenses_owned=9)
    new = title_data("solaris", as_of=NOON + HOUR, title="New")

    assert apply(session, (pool, old.model_copy(update={"bibliographic": new.bibliographic}))) == ApplyResult(
        1, 0
    )

    assert edition_of(session, pool).title == "New"
    assert counts_of(session, pool)[0] == 2


def test_a_pool_without_a_copy_is_exhausted_until_there_is_one(session: Session, pool: LicensePool) -> None:
    assert counts_of(session, pool)[-1] == "unknown"

    apply(session, (pool, title_data("solaris", licenses_owned=0, licenses_available=0)))
    assert counts_of(session, pool) == (0, 0, 0, 0, "exhausted")

    apply(session, (pool, title_data("solaris", licenses_owned=1, licenses_available=1)))
    assert counts_of(session, pool) == (1, 1, 0, 0, "active")


def test_a_source_that_does_not_tell_what_is_reserved_leaves_it(session: Session, pool: LicensePool) -> None:
    apply(session, (pool, title_data("solaris", licenses_reserved=4)))

    apply(session, (pool, title_data("solaris", licenses_owned=7)))

    assert counts_of(session, pool) == (7, 1, 4, 0, "active")


def test_a_description_by_another_source_leaves_what_this_one_says(
    session: Session, pool: LicensePool
) -> None:
    ours = title_data("solaris", isbns=("9788308068298",))
    theirs = title_data("solaris", isbns=("9780156027601",))
    theirs = theirs.model_copy(
        update={"bibliographic": theirs.bibliographic.model_copy(update={"data_source": "Another"})}
    )

    apply(session, (pool, ours))
    apply(session, (pool, theirs))

    assert sorted(isbns_of(session, pool)) == ["9780156027601", "9788308068298"]
    assert session.scalar(select(func.count()).select_from(Edition)) == 2


# One title, several collections, several workers


def test_two_collections_share_one_edition_and_not_their_counts(session: Session, pool: LicensePool) -> None:
    other = make_pool(session, make_collection(session, "Birch Library"), "solaris")

    applied = apply(
        session,
        (pool, title_data("solaris", licenses_owned=1)),
        (other, title_data("solaris", licenses_owned=7)),
    )

    assert applied == ApplyResult(editions=1, pools=2)
    assert session.scalar(select(func.count()).select_from(Edition)) == 1
    assert (counts_of(session, pool)[0], counts_of(session, other)[0]) == (1, 7)


@pytest.mark.parametrize("newer_first", [True, False])
def test_of_two_collections_words_on_one_title_the_newer_counts(
    session: Session, pool: LicensePool, newer_first: bool
) -> None:
    other = make_pool(session, make_collection(session, "Birch Library"), "solaris")
    words = [title_data("solaris", as_of=NOON + HOUR, title="New"), title_data("solaris", title="Old")]

    apply(session, *zip((pool, other), words if newer_first else words[::-1], strict=True))

    assert edition_of(session, pool).title == "New"


def apply_at_once(*batches: Sequence[tuple[int, TitleData]]) -> None:
    """Apply each batch of titles by pool id in a transaction of its own, all starting together."""
    start = threading.Barrier(len(batches), timeout=TIMEOUT_SECONDS)

    def job(batch: Sequence[tuple[int, TitleData]]) -> None:
        with transaction() as mine:
            mine.execute(select(1))
            start.wait()
            apply_titles(mine, dict(batch))

    run_concurrently(*[lambda batch=batch: job(batch) for batch in batches])


def pages(session: Session, collection: Collection) -> tuple[list[LicensePool], list[str]]:
    names = [f"t{n:02}" for n in range(40)]
    return [make_pool(session, collection, name) for name in names], names


@pytest.mark.parametrize("known", [True, False])
def test_two_workers_with_overlapping_pages_in_opposite_order_end_consistent(
    session: Session, collection: Collection, known: bool
) -> None:
    pools, names = pages(session, collection)
    if known:
        apply(session, *((pool, title_data(name)) for pool, name in zip(pools, names, strict=True)))

    def batch(word: str, hours: int) -> list[tuple[int, TitleData]]:
        return [
            (
                pool.id,
                title_data(
                    name,
                    as_of=NOON + hours * HOUR,
                    title=word,
                    contributors=tuple(person(f"{word} {n}, X") for n in range(5)),
                    subjects=tuple(subject(f"{word} {n}") for n in range(5)),
                    isbns=(f"97800000000{hours:02}",),
                    licenses_owned=hours,
                ),
            )
            for pool, name in zip(pools, names, strict=True)
        ]

    apply_at_once(batch("One", 1)[:30], batch("Two", 2)[:9:-1], batch("Three", 3)[5:35])

    for n, pool in enumerate(pools):
        word, hours = ("One", 1) if n < 5 else ("Three", 3) if n < 35 else ("Two", 2)
        assert edition_of(session, pool).title == word
        assert [name for name, _, _ in contributors_of(session, pool)] == [f"{word} {i}, X" for i in range(5)]
        assert subjects_of(session, pool) == [f"{word} {i}" for i in range(5)]
        assert isbns_of(session, pool) == [f"97800000000{hours:02}"]
        assert counts_of(session, pool)[0] == hours


def test_two_collections_workers_meet_at_one_title(session: Session, pool: LicensePool) -> None:
    other = make_pool(session, make_collection(session, "Birch Library"), "solaris")

    apply_at_once(
        [(pool.id, title_data("solaris", title="Same", licenses_owned=1))],
        [(other.id, title_data("solaris", title="Same", licenses_owned=7))],
    )

    assert edition_of(session, pool).title == "Same"
    assert (counts_of(session, pool)[0], counts_of(session, other)[0]) == (1, 7)


def test_a_page_that_meets_an_apply_of_the_same_title_waits_for_it(
    session: Session, pool: LicensePool, collection: Collection
) -> None:
    """The page has added a purchase record, and so holds on to the pool, when it comes upon the outbox
    row that the apply holds; and the apply has not written the pool yet."""
    apply(session, (pool, title_data("solaris")))
    (row_id,) = enqueue_changes(session, [(pool, title_data("solaris", title="One", licenses_owned=1))])
    session.commit()
    pool_id = pool.id

    def page() -> None:
        with transaction() as mine:
            here = mine.get_one(LicensePool, pool_id)
            store_purchase_records(
                mine, PurchaseDate(NOON.date()), [PurchaseRecordData(here, lambda: b"marc", "hash")]
            )
            enqueue_changes(mine, [(here, title_data("solaris", title="Two", licenses_owned=2))])

    def apply_row() -> None:
        with transaction() as mine:
            apply_outbox(mine, [row_id])

    with transaction() as holder:
        holder.execute(select(Edition).with_for_update())
        applying = BackgroundThread(apply_row)
        wait_for_blocked(holder.connection(), 1)
        paging = BackgroundThread(page)
        wait_for_blocked(holder.connection(), 2)
    applying.finish()
    paging.finish()

    assert edition_of(session, pool).title == "One"
    row = session.scalars(select(ApplyOutbox)).one()
    assert TitleData.model_validate(row.data).bibliographic.title == "Two"


def test_a_page_and_an_apply_take_the_rows_of_the_outbox_in_the_same_order(
    session: Session, pool: LicensePool, collection: Collection
) -> None:
    """The row of the later pool has been waiting longer, and so has the smaller id."""
    later = make_pool(session, collection, "later")
    ids = {"solaris": pool.id, "later": later.id}
    (old_row,) = enqueue_changes(session, [(later, title_data("later"))])
    (new_row,) = enqueue_changes(session, [(pool, title_data("solaris"))])
    session.commit()

    def page() -> None:
        with transaction() as mine:
            titles = [(mine.get_one(LicensePool, ids[name]), title_data(name, title="X")) for name in ids]
            enqueue_changes(mine, titles)

    def apply_rows() -> None:
        with transaction() as mine:
            apply_outbox(mine, [old_row, new_row])

    with transaction() as holder:
        holder.execute(select(ApplyOutbox).filter_by(id=new_row).with_for_update())
        paging = BackgroundThread(page)
        wait_for_blocked(holder.connection(), 1)
        applying = BackgroundThread(apply_rows)
        wait_for_blocked(holder.connection(), 2)
    paging.finish()
    applying.finish()

    assert session.scalars(select(Edition.title)).all() == ["X", "X"]
