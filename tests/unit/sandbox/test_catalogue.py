"""Catalogue of the simulated vendor."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.core.errors import UserError
from accession.core.isbn import complete_isbn13
from accession.sandbox.catalogue import (
    Anomaly,
    Catalogue,
    Flaw,
    Format,
    NewTitles,
    Purchase,
    build_catalogue,
    load_subject_codes,
    load_works,
)
from tests.fixtures.sandbox import SINCE, UNTIL


def test_works_are_many_in_many_languages_and_distinct() -> None:
    assert len(load_works()) >= 420
    assert len({(work.title, work.authors) for work in load_works()}) == len(load_works())
    assert len({work.language for work in load_works()}) >= 10


def test_every_work_is_well_formed() -> None:
    for work in load_works():
        assert work.title == work.title.strip() != "", work
        assert re.fullmatch(r"[a-z]{2}", work.language), work
        assert 1000 <= work.year <= 2026, work
        assert 50 <= work.pages <= 2000, work
        assert work.publisher, work
        assert 1 <= len(work.subjects) <= 3, work
        assert set(work.subjects) <= load_subject_codes().keys(), work
        for names in (work.authors, work.narrators or "Nobody"):
            for name in names.split("; "):
                assert re.fullmatch(r"[^,;]*\S(, [^,;]*\S){0,3}", name), work


def test_every_subject_heading_has_one_code() -> None:
    codes = load_subject_codes()
    assert all(re.fullmatch(r"[A-Z]{3}\d{6}", code) for code in codes.values())
    assert len(set(codes.values())) == len(codes)
    assert all(re.fullmatch(r"[^|,]+\|[^|,]+\|", heading) for heading in codes)


def test_same_seed_gives_same_catalogue() -> None:
    first = build_catalogue(500, SINCE, UNTIL, seed=3)
    assert first.purchases == build_catalogue(500, SINCE, UNTIL, seed=3).purchases
    assert first.purchases != build_catalogue(500, SINCE, UNTIL, seed=4).purchases


def test_titles_repeat_works_only_when_works_run_out() -> None:
    small = build_catalogue(400, SINCE, UNTIL, seed=1)
    large = build_catalogue(3 * len(load_works()), SINCE, UNTIL, seed=1)
    assert len({purchase.work for purchase in small.purchases}) == 400
    assert set(Counter(purchase.work for purchase in large.purchases).values()) == {3}
    assert len({purchase.item_id for purchase in large.purchases}) == len(large)
    assert len({purchase.isbn for purchase in large.purchases}) == len(large)


def test_purchases_have_values_like_the_vendors(catalogue: Catalogue) -> None:
    for purchase in catalogue.purchases:
        assert re.fullmatch(r"[a-z0-9]{5,7}", purchase.item_id)
        assert SINCE <= purchase.purchased_at < UNTIL
        assert purchase.purchased_at.microsecond == 0
        assert purchase.isbn == complete_isbn13(purchase.isbn[:12])
        assert purchase.physical_isbn in ("", complete_isbn13(purchase.physical_isbn[:12]))
        assert 1 <= purchase.copies <= 5
        assert purchase.available >= 0
        assert purchase.work.year <= purchase.purchased_at.year
        assert purchase.on_sale or purchase.published <= purchase.purchased_at.date()
        assert (purchase.format is Format.AUDIO) == (purchase.duration_ms is not None)
        assert purchase.work.narrators or purchase.format is not Format.AUDIO
    assert {purchase.format for purchase in catalogue.purchases} == set(Format)


def test_purchases_cluster_with_bulk_days_and_gaps() -> None:
    per_day = Counter(p.purchased_at.date() for p in build_catalogue(3000, SINCE, UNTIL).purchases)
    days = sorted(per_day)
    gaps = [later - earlier for earlier, later in pairwise(days)]
    assert 0.1 < len(days) / (UNTIL - SINCE).days < 0.3
    assert max(per_day.values()) > 120
    assert max(gaps) > timedelta(days=45)


def test_share_of_unusable_records_matches_catalogue_size() -> None:
    assert build_catalogue(99, SINCE, UNTIL).unusable == 0
    catalogue = build_catalogue(100, SINCE, UNTIL)
    assert {p.flaw for p in catalogue.purchases} == {None, *Flaw}
    assert catalogue.unusable == 3
    assert build_catalogue(4000, SINCE, UNTIL).unusable == 10
    assert build_catalogue(100, SINCE, UNTIL, unusable=0).unusable == 0
    assert build_catalogue(2, SINCE, UNTIL, unusable=5).unusable == 2


def test_large_catalogue_has_usable_records_with_invalid_marc() -> None:
    assert not any(purchase.anomaly for purchase in build_catalogue(99, SINCE, UNTIL).purchases)
    invalid = [purchase for purchase in build_catalogue(1000, SINCE, UNTIL).purchases if purchase.anomaly]
    assert len(invalid) == 5
    assert {purchase.anomaly for purchase in invalid} == set(Anomaly)
    assert all(purchase.flaw is None and purchase.is_listed for purchase in invalid)


def test_one_title_in_five_hundred_is_missing_from_items(catalogue: Catalogue) -> None:
    assert sum(not purchase.is_listed for purchase in catalogue.purchases) == 1


def test_few_titles_have_impossible_counts_or_are_on_order(catalogue: Catalogue) -> None:
    impossible = [purchase for purchase in catalogue.purchases if purchase.available > purchase.copies]
    on_order = [purchase for purchase in catalogue.purchases if purchase.on_sale is not None]
    assert len(impossible) == len(on_order) == 1
    assert {p.published for p in on_order} == {p.on_sale for p in on_order}
    assert min(p.on_sale for p in on_order if p.on_sale) > UNTIL.date()
    small = build_catalogue(99, SINCE, UNTIL).purchases
    assert all(purchase.on_sale is None and purchase.available <= purchase.copies for purchase in small)


def test_fifty_thousand_titles_are_built() -> None:
    assert len(build_catalogue(50_000, SINCE, UNTIL)) == 50_000


def test_works_published_after_the_span_are_sold_anyway() -> None:
    catalogue = build_catalogue(
        900, datetime(1850, 1, 1, tzinfo=UTC), datetime(1900, 1, 1, tzinfo=UTC), unusable=0
    )
    assert len(catalogue) == 900


@pytest.mark.parametrize("titles", [0, 1, 5])
def test_single_day_is_long_enough(titles: int) -> None:
    assert len(build_catalogue(titles, SINCE, SINCE + timedelta(hours=3))) == titles


def test_empty_span_and_negative_number_are_explained() -> None:
    with pytest.raises(UserError, match="choose a later end"):
        build_catalogue(1, UNTIL, SINCE)
    with pytest.raises(UserError, match="must not be negative"):
        build_catalogue(-1, SINCE, UNTIL)


@settings(max_examples=60, deadline=None)
@given(
    first=st.datetimes(SINCE.replace(tzinfo=None), UNTIL.replace(tzinfo=None)),
    days=st.integers(0, 2000),
    limit=st.integers(1, 50),
)
def test_pages_of_any_window_contain_its_purchases(
    catalogue: Catalogue, first: datetime, days: int, limit: int
) -> None:
    start = first.replace(tzinfo=UTC)
    end = start + timedelta(days=days)
    pages: list[Purchase] = []
    while page := catalogue.page(start, end, offset=len(pages) + 1, limit=limit):
        assert len(page) <= limit
        pages += page
    assert pages == [p for p in catalogue.purchases if start <= p.purchased_at < end]


def test_added_purchase_is_found_by_window_and_id() -> None:
    catalogue = build_catalogue(50, SINCE, UNTIL)
    before = list(catalogue.purchases)
    moment = before[20].purchased_at + timedelta(seconds=1)
    purchase = NewTitles(catalogue, 0).next_purchase(moment)
    catalogue.add(purchase)
    assert len(catalogue) == 51
    assert catalogue.find(purchase.item_id) == purchase
    assert purchase in catalogue.page(moment, moment + timedelta(seconds=1), offset=1, limit=50)
    assert catalogue.purchases == sorted([*before, purchase], key=lambda p: (p.purchased_at, p.item_id))


def test_new_titles_are_distinct_and_reproducible() -> None:
    catalogue = build_catalogue(50, SINCE, UNTIL)
    generators = [NewTitles(catalogue, seed) for seed in (0, 0, 1)]
    first, same, other = ([generator.next_purchase(UNTIL) for _ in range(300)] for generator in generators)
    assert first == same
    assert first != other
    assert len({p.item_id for p in [*first, *catalogue.purchases]}) == 350
    assert {(p.copies, p.available, p.holds, p.flaw, p.is_listed) for p in first} == {(1, 1, 0, None, True)}
    assert all(p.published <= UNTIL.date() for p in first)
