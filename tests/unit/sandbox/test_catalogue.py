"""What the stand-in vendor sells."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.core.errors import UserError
from accession.sandbox.catalogue import (
    Catalogue,
    Flaw,
    Format,
    FurtherTitles,
    Purchase,
    build_catalogue,
    isbn13,
    subject_codes,
    works,
)
from tests.fixtures.sandbox import SINCE, UNTIL


def test_the_works_are_many_in_many_languages_and_none_comes_twice() -> None:
    assert len(works()) >= 420
    assert len({(work.title, work.authors) for work in works()}) == len(works())
    assert len({work.language for work in works()}) >= 10


def test_every_work_is_well_formed() -> None:
    for work in works():
        assert work.title == work.title.strip() != "", work
        assert re.fullmatch(r"[a-z]{2}", work.language), work
        assert 1000 <= work.year <= 2026, work
        assert 50 <= work.pages <= 2000, work
        assert work.publisher, work
        assert 1 <= len(work.subjects) <= 3, work
        assert set(work.subjects) <= subject_codes().keys(), work
        for names in (work.authors, work.narrators or "Nobody"):
            assert all(name == name.strip() != "" and name.count(",") <= 1 for name in names.split("; ")), (
                work
            )


def test_subject_codes_are_one_for_each_heading() -> None:
    codes = subject_codes()
    assert all(re.fullmatch(r"[A-Z]{3}\d{6}", code) for code in codes.values())
    assert len(set(codes.values())) == len(codes)
    assert all(re.fullmatch(r"[^|,]+\|[^|,]+\|", heading) for heading in codes)


def test_the_same_seed_sells_the_same_and_another_seed_something_else() -> None:
    first = build_catalogue(500, SINCE, UNTIL, seed=3)
    assert first.purchases == build_catalogue(500, SINCE, UNTIL, seed=3).purchases
    assert first.purchases != build_catalogue(500, SINCE, UNTIL, seed=4).purchases


def test_titles_are_distinct_works_until_the_works_run_out_and_then_further_editions() -> None:
    some = build_catalogue(400, SINCE, UNTIL, seed=1)
    many = build_catalogue(3 * len(works()), SINCE, UNTIL, seed=1)
    assert len({purchase.work for purchase in some.purchases}) == 400
    assert set(Counter(purchase.work for purchase in many.purchases).values()) == {3}
    assert len({purchase.item_id for purchase in many.purchases}) == len(many)
    assert len({purchase.isbn for purchase in many.purchases}) == len(many)


def test_purchases_look_like_the_vendors(catalogue: Catalogue) -> None:
    for purchase in catalogue.purchases:
        assert re.fullmatch(r"[a-z0-9]{5,7}", purchase.item_id)
        assert SINCE <= purchase.purchased_at < UNTIL
        assert purchase.purchased_at.microsecond == 0
        assert purchase.isbn == isbn13(purchase.isbn[:12])
        assert purchase.physical_isbn in ("", isbn13(purchase.physical_isbn[:12]))
        assert 1 <= purchase.copies <= 5
        assert 0 <= purchase.available <= purchase.copies
        assert purchase.work.year <= purchase.purchased_at.year
        assert purchase.published <= purchase.purchased_at.date()
        assert (purchase.format is Format.AUDIO) == (purchase.duration_ms is not None)
        assert purchase.work.narrators or purchase.format is not Format.AUDIO
    assert {purchase.format for purchase in catalogue.purchases} == set(Format)


def test_libraries_buy_in_clumps_with_big_days_and_deserts_between() -> None:
    per_day = Counter(p.purchased_at.date() for p in build_catalogue(3000, SINCE, UNTIL).purchases)
    days = sorted(per_day)
    gaps = [later - earlier for earlier, later in pairwise(days)]
    assert 0.1 < len(days) / (UNTIL - SINCE).days < 0.3
    assert max(per_day.values()) > 120
    assert max(gaps) > timedelta(days=45)


def test_one_record_in_four_hundred_is_unusable_and_never_fewer_than_three_of_a_hundred() -> None:
    assert build_catalogue(99, SINCE, UNTIL).unusable == 0
    hundred = build_catalogue(100, SINCE, UNTIL)
    assert {p.flaw for p in hundred.purchases} == {None, *Flaw}
    assert hundred.unusable == 3
    assert build_catalogue(4000, SINCE, UNTIL).unusable == 10
    assert build_catalogue(100, SINCE, UNTIL, unusable=0).unusable == 0
    assert build_catalogue(2, SINCE, UNTIL, unusable=5).unusable == 2


def test_one_title_in_five_hundred_is_missing_from_items(catalogue: Catalogue) -> None:
    assert sum(not purchase.listed for purchase in catalogue.purchases) == 1


def test_fifty_thousand_titles_are_built_in_seconds() -> None:
    started = perf_counter()
    assert len(build_catalogue(50_000, SINCE, UNTIL)) == 50_000
    assert perf_counter() - started < 10


def test_works_younger_than_the_whole_span_are_sold_all_the_same() -> None:
    century = build_catalogue(
        900, datetime(1850, 1, 1, tzinfo=UTC), datetime(1900, 1, 1, tzinfo=UTC), unusable=0
    )
    assert len(century) == 900


@pytest.mark.parametrize("titles", [0, 1, 5])
def test_a_single_day_is_span_enough(titles: int) -> None:
    assert len(build_catalogue(titles, SINCE, SINCE + timedelta(hours=3))) == titles


def test_an_empty_span_or_a_negative_number_is_explained() -> None:
    with pytest.raises(UserError, match="choose a later end"):
        build_catalogue(1, UNTIL, SINCE)
    with pytest.raises(UserError, match="not negative"):
        build_catalogue(-1, SINCE, UNTIL)


@pytest.mark.parametrize("isbn", ["9780735289215", "9781250031112", "9780446586153", "9780805094602"])
def test_check_digits_are_those_of_published_books(isbn: str) -> None:
    assert isbn13(isbn[:12]) == isbn


@settings(max_examples=60, deadline=None)
@given(
    first=st.datetimes(SINCE.replace(tzinfo=None), UNTIL.replace(tzinfo=None)),
    days=st.integers(0, 2000),
    limit=st.integers(1, 50),
)
def test_pages_of_any_window_add_up_to_what_was_bought_in_it(
    catalogue: Catalogue, first: datetime, days: int, limit: int
) -> None:
    start = first.replace(tzinfo=UTC)
    end = start + timedelta(days=days)
    found: list[Purchase] = []
    while page := catalogue.page(start, end, offset=len(found) + 1, limit=limit):
        assert len(page) <= limit
        found += page
    assert found == [p for p in catalogue.purchases if start <= p.purchased_at < end]


def test_a_title_sold_later_is_found_like_any_other() -> None:
    catalogue = build_catalogue(50, SINCE, UNTIL)
    before = list(catalogue.purchases)
    moment = before[20].purchased_at + timedelta(seconds=1)
    purchase = FurtherTitles(catalogue, 0).bought_at(moment)
    catalogue.add(purchase)
    assert len(catalogue) == 51
    assert catalogue.find(purchase.item_id) == purchase
    assert purchase in catalogue.page(moment, moment + timedelta(seconds=1), offset=1, limit=50)
    assert catalogue.purchases == sorted([*before, purchase], key=lambda p: (p.purchased_at, p.item_id))


def test_further_titles_are_new_ones_with_a_single_free_copy_and_the_same_for_the_same_seed() -> None:
    catalogue = build_catalogue(50, SINCE, UNTIL)
    sellers = [FurtherTitles(catalogue, seed) for seed in (0, 0, 1)]
    first, same, other = ([seller.bought_at(UNTIL) for _ in range(300)] for seller in sellers)
    assert first == same
    assert first != other
    assert len({p.item_id for p in [*first, *catalogue.purchases]}) == 350
    assert {(p.copies, p.available, p.holds, p.flaw, p.listed) for p in first} == {(1, 1, 0, None, True)}
    assert all(p.published <= UNTIL.date() for p in first)
