"""What the stand-in vendor has sold: purchases of real works, the same ones for the same seed."""

import csv
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cache
from heapq import heappop, heappush
from importlib import resources
from itertools import chain, count, cycle, islice

from accession.core.clock import whole_second
from accession.core.errors import UserError

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_DESERT_CHANCE = 0.12  # that a month begins a desert of one to four months
_BUYING_CHANCE = 0.27  # on a day outside the deserts: one day in five over the years
_TITLES_FOR_BIG_DAYS = 300
_BIG_DAY = (121, 260)  # three to six pages
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
    """What makes a purchase record unusable."""

    NO_ID = "no 001"
    EMPTY_ID = "empty 001"
    TWO_IDS = "two 001"


@dataclass(frozen=True, slots=True)
class Work:
    """Facts about a published work. Authors and narrators are `Last, First`, separated by `; `."""

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
    """One title as the library bought it."""

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
    listed: bool = True  # whether `items` answers with it


class Catalogue:
    """All purchases in the order of their moments, found by window or by id without a scan."""

    def __init__(self, purchases: Iterable[Purchase]) -> None:
        self.purchases = sorted(purchases, key=_by_moment)
        self._moments = [purchase.purchased_at for purchase in self.purchases]
        self._by_id = {purchase.item_id: purchase for purchase in self.purchases}

    def __len__(self) -> int:
        return len(self.purchases)

    @property
    def unusable(self) -> int:
        """How many purchases have a record without exactly one 001."""
        return sum(purchase.flaw is not None for purchase in self.purchases)

    def find(self, item_id: str) -> Purchase | None:
        return self._by_id.get(item_id)

    def add(self, purchase: Purchase) -> None:
        """Sell one more title."""
        insort(self.purchases, purchase, key=_by_moment)
        insort(self._moments, purchase.purchased_at)
        self._by_id[purchase.item_id] = purchase

    def page(
        self, start: datetime, end: datetime | None, *, offset: int, limit: int, end_included: bool = False
    ) -> Sequence[Purchase]:
        """At most `limit` purchases of the window `[start, end)`, from the 1-based `offset` on.

        Without an end the window is open. `end_included` adds the purchases of the very second `end`.
        """
        first = bisect_left(self._moments, start) + offset - 1
        stop = len(self._moments)
        if end is not None:
            stop = (bisect_right if end_included else bisect_left)(self._moments, end)
        return self.purchases[first : min(first + limit, stop)]


def _by_moment(purchase: Purchase) -> tuple[datetime, str]:
    return purchase.purchased_at, purchase.item_id


class FurtherTitles:
    """Titles that a catalogue has not sold yet, the same ones for the same catalogue and seed."""

    def __init__(self, catalogue: Catalogue, seed: int) -> None:
        self._dice = seeded(f"further titles {seed}")
        self._works = _deck(self._dice)
        self._ids = (item_id for item_id in _item_ids(self._dice) if catalogue.find(item_id) is None)
        self._isbns = _isbns(self._dice)

    def bought_at(self, moment: datetime) -> Purchase:
        """The next title, its first copy bought at `moment`."""
        work = next(work for work in self._works if work.year <= moment.year)
        purchase = _purchase(moment, work, next(self._ids), next(self._isbns), self._dice)
        return replace(purchase, copies=1, available=1, holds=0)


def build_catalogue(
    titles: int, since: datetime, until: datetime, *, seed: int = 0, unusable: int | None = None
) -> Catalogue:
    """`titles` purchases in `[since, until)`, two aware moments; the same for the same arguments.

    Libraries buy in clumps: on about one day in five, on a few days well over a hundred titles at
    once (from 300 titles on), and for months not at all. Beyond the number of known works come
    further editions of them, with ids, ISBNs and formats of their own. One record in 400, and from
    100 titles on at least three, is unusable unless `unusable` says how many; one title in 500, and
    from 100 titles on at least one, is missing from `items`.

    Raises UserError for fewer than no titles or an empty span of time.
    """
    since, until = whole_second(since.astimezone(UTC)), whole_second(until.astimezone(UTC))
    if since >= until:
        raise UserError(
            f"The sandbox cannot buy between {since:%Y-%m-%d} and {until:%Y-%m-%d}: choose a later end."
        )
    if titles < 0:
        raise UserError(f"The sandbox cannot hold {titles} titles: give a number that is not negative.")
    dice = seeded(f"catalogue {seed}")
    moments = _moments(titles, since, until, dice)
    bought = zip(moments, _in_time(_deck(dice), moments), _item_ids(dice), _isbns(dice), strict=False)
    purchases = [_purchase(moment, work, item_id, isbn, dice) for moment, work, item_id, isbn in bought]
    return Catalogue(_with_oddities(purchases, unusable, dice))


def seeded(seed: str) -> random.Random:
    """Dice that fall alike for the same seed."""
    return random.Random(seed)  # noqa: S311 - nothing here is a secret, and repeatable is the point


@cache
def works() -> tuple[Work, ...]:
    """The works that the package knows."""
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
        for row in _table("works.tsv")
    )


@cache
def subject_codes() -> dict[str, str]:
    """The nine-character code of each heading that a work carries."""
    return {row["heading"]: row["code"] for row in _table("subjects.tsv")}


def _table(name: str) -> list[dict[str, str]]:
    with resources.files(__package__).joinpath(name).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


def isbn13(first_twelve: str) -> str:
    """The ISBN-13 that begins with these twelve digits."""
    total = sum(int(digit) * weight for digit, weight in zip(first_twelve, cycle((1, 3)), strict=False))
    return f"{first_twelve}{-total % 10}"


def _moments(titles: int, since: datetime, until: datetime, dice: random.Random) -> list[datetime]:
    days = _buying_days(since.date(), (until - timedelta(seconds=1)).date(), dice)
    counts = dict.fromkeys(days, 0)
    left = titles
    if titles >= _TITLES_FOR_BIG_DAYS:
        for day in dice.sample(days, min(len(days), max(1, titles // 1500))):
            counts[day] = dice.randint(_BIG_DAY[0], min(_BIG_DAY[1], titles // 2))
            left -= counts[day]
    for day in dice.choices(days, [min(dice.paretovariate(1.3), 12) for _ in days], k=left):
        counts[day] += 1
    return sorted(_moment(day, since, until, dice) for day, bought in counts.items() for _ in range(bought))


def _moment(day: date, since: datetime, until: datetime, dice: random.Random) -> datetime:
    midnight = datetime.combine(day, time(), UTC)
    first = max(midnight, since)
    seconds = int((min(midnight + timedelta(days=1), until) - first).total_seconds())
    # Some fall on the very edge of a day, where windows meet.
    return first if dice.random() < 0.02 else first + timedelta(seconds=int(dice.random() * seconds))


def _buying_days(first: date, last: date, dice: random.Random) -> list[date]:
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    deserts: set[tuple[int, int]] = set()
    dry_months = 0
    for month in sorted({(day.year, day.month) for day in days}):
        if not dry_months and dice.random() < _DESERT_CHANCE:
            dry_months = dice.randint(1, 4)
        if dry_months:
            deserts.add(month)
            dry_months -= 1
    buying = [d for d in days if (d.year, d.month) not in deserts and dice.random() < _BUYING_CHANCE]
    return buying or [dice.choice(days)]


def _deck(dice: random.Random) -> Iterator[Work]:
    return chain.from_iterable(dice.sample(works(), len(works())) for _ in cycle((None,)))


def _in_time(deck: Iterator[Work], moments: Sequence[datetime]) -> Iterator[Work]:
    """The first works of the deck, one for each moment, none bought before its year where that can be had."""
    hand = islice(deck, len(moments))
    waiting: list[tuple[int, int, Work]] = []  # works not yet published, the earliest on top
    age = count()
    for moment in moments:
        if waiting and waiting[0][0] <= moment.year:
            yield heappop(waiting)[2]
            continue
        for work in hand:
            if work.year <= moment.year:
                yield work
                break
            heappush(waiting, (work.year, next(age), work))
        else:
            yield heappop(waiting)[2]


def _item_ids(dice: random.Random) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        item_id = "".join(dice.choices(_ID_LETTERS, k=dice.choice((5, 6, 7, 7, 7))))
        if item_id not in seen:
            seen.add(item_id)
            yield item_id


def _isbns(dice: random.Random) -> Iterator[str]:
    seen: set[int] = set()
    while True:
        number = dice.randrange(10**9)
        if number not in seen:
            seen.add(number)
            yield isbn13(f"978{number:09}")


def _purchase(moment: datetime, work: Work, item_id: str, isbn: str, dice: random.Random) -> Purchase:
    audio = bool(work.narrators) and dice.random() < 0.35
    copies = dice.choices(_COPIES, _COPIES_WEIGHTS)[0]
    available = max(0, dice.randint(-1, copies))
    return Purchase(
        item_id=item_id,
        purchased_at=moment,
        work=work,
        format=Format.AUDIO
        if audio
        else dice.choices((Format.EPUB, Format.EPUB3, Format.PDF), (60, 25, 15))[0],
        published=_published(work, moment.date(), dice),
        isbn=isbn,
        physical_isbn=isbn13(f"978{dice.randrange(10**9):09}") if dice.random() < 0.4 else "",
        copies=copies,
        available=available,
        holds=0 if available else dice.randint(0, 3 * copies),
        size_kb=work.pages * (dice.randint(600, 900) if audio else dice.randint(1, 12)),
        duration_ms=work.pages * dice.randint(80, 110) * 1000 if audio else None,
    )


def _published(work: Work, bought: date, dice: random.Random) -> date:
    year = work.year
    if year < _FIRST_E_BOOK_YEAR:
        year = dice.randint(_FIRST_E_BOOK_YEAR, max(_FIRST_E_BOOK_YEAR, bought.year))
    published = date(year, dice.randint(1, 12), dice.randint(1, 28))
    return min(published, bought) if year == bought.year else published


def _with_oddities(
    purchases: list[Purchase], unusable: int | None, dice: random.Random
) -> Iterator[Purchase]:
    many = len(purchases) >= 100
    flawed = max(3 * many, round(len(purchases) / 400)) if unusable is None else unusable
    missing = max(1 * many, len(purchases) // 500)
    odd = dice.sample(range(len(purchases)), min(len(purchases), flawed + missing))
    flaws = dict(zip(odd[:flawed], cycle(Flaw), strict=False))
    unlisted = set(odd[flawed:])
    for number, purchase in enumerate(purchases):
        if number in flaws:
            yield replace(purchase, flaw=flaws[number])
        elif number in unlisted:
            yield replace(purchase, listed=False)
        else:
            yield purchase
