"""Catalogue of the simulated vendor: purchases of real works, reproducible by seed."""

import csv
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cache
from heapq import heappop, heappush
from importlib import resources
from itertools import chain, count, cycle, islice

from accession.core.clock import truncate_to_second
from accession.core.errors import UserError
from accession.core.isbn import complete_isbn13

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_GAP_CHANCE = 0.12  # probability that one to four months without purchases begin
_PURCHASE_DAY_CHANCE = 0.27  # on a day outside these gaps; one day in five overall
_MIN_TITLES_FOR_BULK_DAYS = 300
_BULK_DAY_TITLES = (121, 260)  # three to six pages
_COPIES = (1, 2, 3, 4, 5)
_COPIES_WEIGHTS = (60, 20, 10, 6, 4)
_FIRST_E_BOOK_YEAR = 2000


class Format(StrEnum):
    """The vendor's `BookFormat`."""

    EPUB = "EPUB"
    EPUB3 = "EPUB3"
    PDF = "PDF"
    AUDIO = "MP3"


class Flaw(StrEnum):
    """Reason why a purchase record is unusable."""

    NO_ID = "no 001"
    EMPTY_ID = "empty 001"
    TWO_IDS = "two 001"


class Anomaly(StrEnum):
    """Kind of invalid MARC 21 in a purchase record that can be used all the same."""

    LEADER = "undefined values in the leader"
    CONTROL_FIELDS = "malformed control fields"
    DATA_FIELDS = "undefined indicators, subfields and tags"
    INVALID_PARTS = "subfields, indicators and tags that MARC 21 cannot represent"


@dataclass(frozen=True, slots=True)
class Work:
    """Facts about a published work.

    Authors and narrators are `Last, First`, separated by `; `. Some have dates, or a role in brackets.
    """

    title: str
    subtitle: str
    authors: str
    language: str  # ISO 639-1
    year: int  # of first publication
    pages: int
    subjects: tuple[str, ...]  # `TOP|Sub|`
    publisher: str
    narrators: str


@dataclass(frozen=True, slots=True)
class Purchase:
    """Purchase of one title by the library."""

    item_id: str
    purchased_at: datetime  # UTC, a whole second
    work: Work
    format: Format
    published: date  # the e-edition
    isbn: str
    physical_isbn: str  # empty when the vendor knows none
    copies: int
    available: int
    holds: int
    size_kb: int
    duration_ms: int | None  # audio only
    flaw: Flaw | None = None
    anomaly: Anomaly | None = None
    is_listed: bool = True  # False: `items` omits the title
    on_sale: date | None = None  # of a title that was ordered before it is on sale


class Catalogue:
    """All purchases in order of time, indexed by window and by id."""

    def __init__(self, purchases: Iterable[Purchase]) -> None:
        self.purchases = sorted(purchases, key=_by_moment)
        self._moments = [purchase.purchased_at for purchase in self.purchases]
        self._by_id = {purchase.item_id: purchase for purchase in self.purchases}

    def __len__(self) -> int:
        return len(self.purchases)

    @property
    def unusable(self) -> int:
        """Number of purchases whose record does not have exactly one 001."""
        return sum(purchase.flaw is not None for purchase in self.purchases)

    def find(self, item_id: str) -> Purchase | None:
        """Return the purchase with this id, or None."""
        return self._by_id.get(item_id)

    def add(self, purchase: Purchase) -> None:
        """Add a purchase at its place in time."""
        insort(self.purchases, purchase, key=_by_moment)
        insort(self._moments, purchase.purchased_at)
        self._by_id[purchase.item_id] = purchase

    def page(
        self,
        start: datetime,
        end: datetime | None,
        *,
        offset: int,
        limit: int,
        end_included: bool = False,
        has_record: Callable[[Purchase], bool] = lambda _: True,
    ) -> Sequence[Purchase]:
        """Return up to `limit` purchases of the window `[start, end)`, from the 1-based `offset` on.

        Without `end` the window is open-ended. With `end_included` the second `end` belongs to the window.
        Purchases without a record are omitted and have no offset.
        """
        first, stop = bisect_left(self._moments, start), len(self._moments)
        if end is not None:
            stop = (bisect_right if end_included else bisect_left)(self._moments, end)
        with_record = filter(has_record, self.purchases[first:stop])
        return list(islice(with_record, offset - 1, offset - 1 + limit))


def _by_moment(purchase: Purchase) -> tuple[datetime, str]:
    return purchase.purchased_at, purchase.item_id


class NewTitles:
    """Generator of titles that a catalogue does not hold yet, reproducible by catalogue and seed."""

    def __init__(self, catalogue: Catalogue, seed: int | str) -> None:
        self._rng = seeded_random(f"further titles {seed}")
        self._works = _shuffled_works(self._rng)
        self._ids = (item_id for item_id in _item_ids(self._rng) if catalogue.find(item_id) is None)
        self._isbns = _isbns(self._rng)

    def next_purchase(self, moment: datetime) -> Purchase:
        """Return a new title whose first copy is purchased at `moment`."""
        work = next(work for work in self._works if work.year <= moment.year)
        purchase = _make_purchase(moment, work, next(self._ids), next(self._isbns), self._rng)
        return replace(purchase, copies=1, available=1, holds=0)


def build_catalogue(
    titles: int, since: datetime, until: datetime, *, seed: int = 0, unusable: int | None = None
) -> Catalogue:
    """Build a catalogue of `titles` purchases in `[since, until)`; equal arguments give equal catalogues.

    Purchases cluster as in real libraries: about one day in five has any, a few days have well over a
    hundred (from 300 titles on), and some months have none. When the known works run out, further
    editions of them follow, each with its own id, ISBN and format. One record in 400 is unusable (at
    least three from 100 titles on), unless `unusable` gives the number. One title in 500 (at least one
    from 100 titles on) is missing from `items`. One record in 200 (from 100 titles on at least one with each
    anomaly) is usable, but not valid MARC 21. One title in 500 (at least one from 100 titles on) has more
    copies available than purchased, and as many of the latest titles are not on sale yet at the end of
    the span.

    Args:
        titles: Number of purchases.
        since: First moment, with a time zone.
        until: Moment after the last one, with a time zone.
        seed: Seed of the random numbers.
        unusable: Number of unusable records.

    Raises:
        UserError: `titles` is negative or the time span is empty.
    """
    since, until = truncate_to_second(since.astimezone(UTC)), truncate_to_second(until.astimezone(UTC))
    if since >= until:
        raise UserError(
            f"The sandbox cannot sell titles from {since:%Y-%m-%d} to {until:%Y-%m-%d}: choose a later end."
        )
    if titles < 0:
        raise UserError(f"The sandbox cannot sell {titles} titles: the number must not be negative.")
    rng = seeded_random(f"catalogue {seed}")
    moments = _moments(titles, since, until, rng)
    rows = zip(
        moments,
        _match_works_to_moments(_shuffled_works(rng), moments),
        _item_ids(rng),
        _isbns(rng),
        strict=False,
    )
    purchases = [_make_purchase(moment, work, item_id, isbn, rng) for moment, work, item_id, isbn in rows]
    purchases = list(_with_anomalies(list(_with_flaws(purchases, unusable, rng)), rng))
    return Catalogue(_with_unusual_copies(purchases, until.date(), seeded_random(f"unusual copies {seed}")))


def seeded_random(seed: str) -> random.Random:
    """Return a random number generator that is reproducible by its seed."""
    return random.Random(seed)  # noqa: S311 - reproducible on purpose, nothing here is secret


@cache
def load_works() -> tuple[Work, ...]:
    """Load the works shipped with the package."""
    return tuple(
        Work(
            title=row["title"],
            subtitle=row["subtitle"],
            authors=row["authors"],
            language=row["language"],
            year=int(row["year"]),
            pages=int(row["pages"]),
            subjects=tuple(row["subjects"].split(",")),
            publisher=row["publisher"],
            narrators=row["narrators"],
        )
        for row in _read_table("works.tsv")
    )


@cache
def load_subject_codes() -> dict[str, str]:
    """Load the subject headings: heading to nine-character BISAC code."""
    return {row["heading"]: row["code"] for row in _read_table("subjects.tsv")}


def _read_table(name: str) -> list[dict[str, str]]:
    with resources.files(__package__).joinpath(name).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


def _moments(titles: int, since: datetime, until: datetime, rng: random.Random) -> list[datetime]:
    days = _purchase_days(since.date(), (until - timedelta(seconds=1)).date(), rng)
    counts = dict.fromkeys(days, 0)
    remaining = titles
    if titles >= _MIN_TITLES_FOR_BULK_DAYS:
        for day in rng.sample(days, min(len(days), max(1, titles // 1500))):
            counts[day] = rng.randint(_BULK_DAY_TITLES[0], min(_BULK_DAY_TITLES[1], titles // 2))
            remaining -= counts[day]
    for day in rng.choices(days, [min(rng.paretovariate(1.3), 12) for _ in days], k=remaining):
        counts[day] += 1
    return sorted(
        _moment(day, since, until, rng) for day, titles_of_day in counts.items() for _ in range(titles_of_day)
    )


def _moment(day: date, since: datetime, until: datetime, rng: random.Random) -> datetime:
    midnight = datetime.combine(day, time(), UTC)
    first = max(midnight, since)
    seconds = int((min(midnight + timedelta(days=1), until) - first).total_seconds())
    # Some purchases happen exactly at midnight, where two windows meet.
    return first if rng.random() < 0.02 else first + timedelta(seconds=int(rng.random() * seconds))


def _purchase_days(first: date, last: date, rng: random.Random) -> list[date]:
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    gap_months: set[tuple[int, int]] = set()
    remaining_gap = 0
    for month in sorted({(day.year, day.month) for day in days}):
        if not remaining_gap and rng.random() < _GAP_CHANCE:
            remaining_gap = rng.randint(1, 4)
        if remaining_gap:
            gap_months.add(month)
            remaining_gap -= 1
    buying = [d for d in days if (d.year, d.month) not in gap_months and rng.random() < _PURCHASE_DAY_CHANCE]
    return buying or [rng.choice(days)]


def _shuffled_works(rng: random.Random) -> Iterator[Work]:
    return chain.from_iterable(rng.sample(load_works(), len(load_works())) for _ in cycle((None,)))


def _match_works_to_moments(candidates: Iterator[Work], moments: Sequence[datetime]) -> Iterator[Work]:
    """Assign a work to each moment, avoiding purchases before the year of publication where possible."""
    remaining = islice(candidates, len(moments))
    unpublished: list[tuple[int, int, Work]] = []  # heap of (year, sequence number, work)
    sequence = count()
    for moment in moments:
        if unpublished and unpublished[0][0] <= moment.year:
            yield heappop(unpublished)[2]
            continue
        for work in remaining:
            if work.year <= moment.year:
                yield work
                break
            heappush(unpublished, (work.year, next(sequence), work))
        else:
            yield heappop(unpublished)[2]


def _item_ids(rng: random.Random) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        item_id = "".join(rng.choices(_ID_LETTERS, k=rng.choice((5, 6, 7, 7, 7))))
        if item_id not in seen:
            seen.add(item_id)
            yield item_id


def _isbns(rng: random.Random) -> Iterator[str]:
    seen: set[int] = set()
    while True:
        number = rng.randrange(10**9)
        if number not in seen:
            seen.add(number)
            yield complete_isbn13(f"978{number:09}")


def _make_purchase(moment: datetime, work: Work, item_id: str, isbn: str, rng: random.Random) -> Purchase:
    audio = bool(work.narrators) and rng.random() < 0.35
    copies = rng.choices(_COPIES, _COPIES_WEIGHTS)[0]
    available = max(0, rng.randint(-1, copies))
    return Purchase(
        item_id=item_id,
        purchased_at=moment,
        work=work,
        format=Format.AUDIO
        if audio
        else rng.choices((Format.EPUB, Format.EPUB3, Format.PDF), (60, 25, 15))[0],
        published=_publication_date_of(work, moment.date(), rng),
        isbn=isbn,
        physical_isbn=complete_isbn13(f"978{rng.randrange(10**9):09}") if rng.random() < 0.4 else "",
        copies=copies,
        available=available,
        holds=0 if available else rng.randint(0, 3 * copies),
        size_kb=work.pages * (rng.randint(600, 900) if audio else rng.randint(1, 12)),
        duration_ms=work.pages * rng.randint(80, 110) * 1000 if audio else None,
    )


def _publication_date_of(work: Work, purchased_on: date, rng: random.Random) -> date:
    year = work.year
    if year < _FIRST_E_BOOK_YEAR:
        year = rng.randint(_FIRST_E_BOOK_YEAR, max(_FIRST_E_BOOK_YEAR, purchased_on.year))
    published = date(year, rng.randint(1, 12), rng.randint(1, 28))
    return min(published, purchased_on) if year == purchased_on.year else published


def _with_flaws(purchases: list[Purchase], unusable: int | None, rng: random.Random) -> Iterator[Purchase]:
    is_large = len(purchases) >= 100
    flawed = max(3 * is_large, round(len(purchases) / 400)) if unusable is None else unusable
    missing = max(1 * is_large, len(purchases) // 500)
    selected = rng.sample(range(len(purchases)), min(len(purchases), flawed + missing))
    flaws = dict(zip(selected[:flawed], cycle(Flaw), strict=False))
    unlisted = set(selected[flawed:])
    for number, purchase in enumerate(purchases):
        if number in flaws:
            yield replace(purchase, flaw=flaws[number])
        elif number in unlisted:
            yield replace(purchase, is_listed=False)
        else:
            yield purchase


def _with_anomalies(purchases: list[Purchase], rng: random.Random) -> Iterator[Purchase]:
    usable = [index for index, each in enumerate(purchases) if each.flaw is None and each.is_listed]
    number = max(len(Anomaly) if len(purchases) >= 100 else 0, len(purchases) // 200)
    selected = rng.sample(usable, min(number, len(usable)))
    anomalies = dict(zip(selected, cycle(Anomaly), strict=False))
    for index, purchase in enumerate(purchases):
        yield replace(purchase, anomaly=anomalies[index]) if index in anomalies else purchase


def _with_unusual_copies(purchases: list[Purchase], end: date, rng: random.Random) -> list[Purchase]:
    """Return the purchases, some with impossible counts, and some of the latest ordered before their sale."""
    number = max(1 * (len(purchases) >= 100), len(purchases) // 500)
    usable = [index for index, each in enumerate(purchases) if each.flaw is None and each.is_listed]
    unusual = list(purchases)
    for index in usable[len(usable) - number :]:
        on_sale = end + timedelta(days=rng.randint(7, 90))
        unusual[index] = replace(purchases[index], published=on_sale, on_sale=on_sale)
    for index in rng.sample(usable[: len(usable) - number], number):
        copies = purchases[index].copies
        unusual[index] = replace(purchases[index], available=copies + rng.randint(1, 4), holds=0)
    return unusual
