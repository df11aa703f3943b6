"""A generated catalogue of any size, copied into an empty database; equal sizes give equal catalogues.

It has two hundred collections of very different sizes: the largest holds a fifth of all licence pools, the
smallest a few. Three pools in ten are of a title that another collection holds too. With the titles come
metadata, purchase records and two circulation events per pool, and a run ledger with about as many runs as
there are pools: hourly events, daily purchases and circulation.
"""

import argparse
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property

from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from accession.accounts.account import Account
from accession.accounts.collections import add_collection
from accession.bibliotheca.client import MAX_ITEMS
from accession.bibliotheca.items import DATA_SOURCE
from accession.bibliotheca.marc import MarcRecord, parse_marc_page
from accession.core.clock import utc_now
from accession.core.marc21 import Field, Marc21Record, data_field, parse_marc21
from accession.core.text import sort_text
from accession.core.vocabulary import (
    Audience,
    ContributorRole,
    Format,
    IdentifierType,
    LinkRel,
    SubjectScheme,
)
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import PoolStatus
from accession.runs.ledger import SERVICE_TYPE
from accession.sandbox.catalogue import Purchase, build_catalogue
from accession.sandbox.marc import marc_collection
from benchmarks.bulk_load import Row, advance_sequences, copy_rows, without_keys_and_indexes

COLLECTIONS = 200
_SHARE_OF_LARGEST_COLLECTION = 0.2
# Size of each further collection, relative to the one before.
_SIZE_RATIO = 0.96
# Distinct titles per pool.
_TITLES_PER_POOL = 0.7
_EVENTS_PER_POOL = 2
_SUBJECTS = 4000
_WORKS = 200
_SUMMARY_WORDS = 230
_BYTES_PER_TITLE = 12_000
_WITHDRAWN_PER_1000, _ON_ORDER_PER_1000 = 20, 5
# By a hash of the title's number; the others are in English, and EPUB.
_LANGUAGES = {1: "spa", 2: "spa", 3: "spa", 4: "fre", 5: "ger", 6: "chi", 7: "ara"}
_FORMATS = {1: Format.MP3, 2: Format.MP3, 3: Format.MP3, 4: Format.PDF, 5: Format.EPUB3}
_CATEGORIES = {Audience.CHILDREN: "JUVENILE FICTION", Audience.YOUNG_ADULT: "YOUNG ADULT FICTION"}

# Placeholder of the item id in prepared records; as long as an item id.
_ITEM_ID_PLACEHOLDER = b"======="

_Table = tuple[str, str, Iterable[Row]]


@dataclass(frozen=True)
class GeneratedCatalogue:
    """A catalogue in the database: its size, and the ids of its largest and its smallest collection."""

    pools: int
    titles: int
    runs: int
    largest: int
    smallest: int


def read_titles_option(description: str | None) -> int:
    """Return the size of the catalogue from the command line.

    Raises:
        SystemExit: the command line is invalid, or there is not enough disk space.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--titles", type=int, default=1_000_000, help="Size of the catalogue. Default: 1000000."
    )
    titles: int = parser.parse_args().titles
    require_disk_space(titles)
    return titles


def require_disk_space(titles: int) -> None:
    """Check that a database with this number of titles fits into the folder of temporary files.

    Raises:
        SystemExit: it does not.
    """
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < titles * _BYTES_PER_TITLE:
        raise SystemExit(
            f"There is not enough disk space in {folder} for {titles:,} titles: "
            "set TMPDIR to another folder, or choose fewer titles."
        )


def fill_database(engine: Engine, pools: int) -> GeneratedCatalogue:
    """Fill a database, which has the schema but no rows, with a catalogue of this number of pools."""
    rows = CatalogueRows(pools)
    with Session(engine) as session, session.begin():
        for number in range(1, COLLECTIONS + 1):
            add_collection(
                session,
                Account(
                    collection=f"Library {number:03}",
                    library_id=f"library{number}",
                    account_id=f"library.{number}",
                    account_key=SecretStr("a-key"),
                    base_url="http://127.0.0.1:9",
                ),
            )
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
        # The records do not compress well, and trying it takes a minute for a million of them.
        connection.execute(text("ALTER TABLE purchase_records ALTER marc SET STORAGE EXTERNAL"))
        with without_keys_and_indexes(connection):
            for table, columns, table_rows in rows.tables():
                copy_rows(connection, table, columns.split(), table_rows)
        connection.execute(text("ALTER TABLE purchase_records ALTER marc SET STORAGE DEFAULT"))
        runs = advance_sequences(connection)["runs"]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
    return GeneratedCatalogue(pools, rows.title_count, runs, largest=1, smallest=COLLECTIONS)


class CatalogueRows:
    """The rows of every table, most of them computed from their numbers.

    Titles, pools and collections are numbered from 1.
    """

    def __init__(self, pools: int) -> None:
        self.pools = pools
        self._titles = range(1, 1 + int(pools * _TITLES_PER_POOL))
        self._random = random.Random(pools)  # noqa: S311 - reproducible on purpose
        self._now = utc_now().replace(minute=0, second=0, microsecond=0)
        self._timestamp = str(self._now)
        catalogue = build_catalogue(_WORKS, datetime(2014, 1, 1, tzinfo=UTC), self._now, unusable=0)
        self._purchases = catalogue.purchases

    @property
    def title_count(self) -> int:
        """Number of titles, each of which has an edition."""
        return len(self._titles)

    def tables(self) -> Iterator[_Table]:
        """Yield each table: its name, the columns to fill, and its rows."""
        yield "identifiers", "id type identifier", self._identifiers()
        yield (
            "identifier_equivalents",
            "identifier_id equivalent_id data_source position",
            (
                (identifier_row_id(n), isbn_id, DATA_SOURCE, position)
                for n in self._titles
                for position, isbn_id in enumerate(isbn_row_ids(n))
            ),
        )
        yield from self._metadata()
        yield from self._holdings()
        yield from self._pending()
        yield from self._ledger()

    @cached_property
    def _pool_collections(self) -> Sequence[int]:
        """The collection of each pool. The collections are mixed, as if they had grown concurrently."""
        largest = int(self.pools * _SHARE_OF_LARGEST_COLLECTION)
        weights = [_SIZE_RATIO**n for n in range(COLLECTIONS - 1)]
        unit = (self.pools - largest) / sum(weights)
        sizes = [largest, *(max(1, int(unit * weight)) for weight in weights)]
        sizes[1] += self.pools - sum(sizes)
        collections = [number for number, size in enumerate(sizes, 1) for _ in range(size)]
        self._random.shuffle(collections)
        return collections

    @cached_property
    def _pool_titles(self) -> Sequence[int]:
        """The title of each pool: first every title once, then titles that another collection holds too."""
        titles = list(self._titles)
        repeated: set[tuple[int, int]] = set()
        for collection in self._pool_collections[self.title_count :]:
            title = self._popular_index(self.title_count) + 1
            while self._pool_collections[title - 1] == collection or (collection, title) in repeated:
                title = self._popular_index(self.title_count) + 1
            repeated.add((collection, title))
            titles.append(title)
        return titles

    def _popular_index(self, size: int) -> int:
        """Return a number below `size`, low ones more often: one in ten is of the first hundredth."""
        return int(size * self._random.random() ** 2)

    def _identifiers(self) -> Iterator[Row]:
        for n in self._titles:
            yield identifier_row_id(n), IdentifierType.BIBLIOTHECA, item_id(n)
            for row_id in isbn_row_ids(n):
                yield row_id, IdentifierType.ISBN, isbn(row_id)

    def _metadata(self) -> Iterator[_Table]:
        yield (
            "editions",
            "id data_source identifier_id title subtitle publisher published language description page_count"
            " medium format search_text sort_title sort_author audience content_hash as_of created_at"
            " updated_at",
            self._editions(),
        )
        yield (
            "contributors",
            "id sort_name display_name",
            ((n, contributor_sort_name(n), contributor_name(n)) for n in self._contributors),
        )
        yield (
            "contributions",
            "edition_id contributor_id role position",
            (
                (n, contributor, role, position)
                for n in self._titles
                for position, (contributor, role) in enumerate(
                    zip(
                        self._contributors_of(n),
                        (ContributorRole.AUTHOR, ContributorRole.NARRATOR),
                        strict=False,
                    )
                )
            ),
        )
        yield (
            "subjects",
            "id scheme name",
            ((n, SubjectScheme.BISAC, subject_name(n)) for n in range(1, _SUBJECTS + 1)),
        )
        yield (
            "classifications",
            "edition_id subject_id position",
            ((n, subject_of(n, position), position) for n in self._titles for position in range(3)),
        )
        yield (
            "links",
            "edition_id rel href",
            (
                (n, rel, f"https://images.example/delivery/img?type={rel}&documentID={item_id(n)}")
                for n in self._titles
                for rel in LinkRel
            ),
        )

    @property
    def _contributors(self) -> Sequence[int]:
        return range(1, 2 + self.title_count // 3)

    def _contributors_of(self, title: int) -> list[int]:
        """Return an author, and for every third title a narrator."""
        return [
            multiplicative_hash(title + position, len(self._contributors)) + 1
            for position in range(1 + (title % 3 == 0))
        ]

    def _editions(self) -> Iterator[Row]:
        templates = [(p.work, str(p.published), self._summary()[:900]) for p in self._purchases]
        for n in self._titles:
            work, published, summary = templates[n % len(templates)]
            title, names = f"{work.title}, {n}", map(contributor_name, self._contributors_of(n))
            isbns = map(isbn, isbn_row_ids(n))
            searchable = (title, work.subtitle, *names, work.publisher, *isbns, item_id(n))
            yield (
                n,
                DATA_SOURCE,
                identifier_row_id(n),
                title,
                work.subtitle or None,
                work.publisher,
                published,
                _LANGUAGES.get(multiplicative_hash(n, 101), "eng"),
                summary,
                work.pages,
                "book",
                _FORMATS.get(multiplicative_hash(n, 11), Format.EPUB),
                " ".join(filter(None, searchable)),
                sort_text(title),
                sort_text(contributor_sort_name(self._contributors_of(n)[0])),
                audience(subject_of(n, 0)),
                f"1:{content_hash(n)}",
                self._timestamp,
                self._timestamp,
                self._timestamp,
            )

    def _summary(self) -> str:
        words = " ".join(purchase.work.title for purchase in self._purchases).split()
        return " ".join(self._random.choices(words, k=_SUMMARY_WORDS))

    def _holdings(self) -> Iterator[_Table]:
        # An unchanged snapshot of the copies is not written again, so some are a year old.
        as_of, timestamp = [str(self._now - timedelta(days=days)) for days in range(365)], self._timestamp
        yield (
            "license_pools",
            "id collection_id identifier_id data_source licenses_owned licenses_available"
            " patrons_in_hold_queue status circulation_as_of snapshot_owned snapshot_available snapshot_holds"
            " created_at updated_at",
            (
                (
                    n,
                    collection,
                    identifier_row_id(title),
                    DATA_SOURCE,
                    *(owned, available, holds, status),
                    *(as_of[n % len(as_of)], owned, available, holds),
                    timestamp,
                    timestamp,
                )
                for n, collection, title in self._numbered_pools()
                for owned, available, holds, status in [copies(n)]
            ),
        )
        records = list(self._prepared_records())
        yield (
            "purchase_records",
            "collection_id license_pool_id purchased_on marc content_hash",
            (
                (
                    *(collection, n, purchase_day(n)),
                    records[n % len(records)].replace(_ITEM_ID_PLACEHOLDER, item_id(title).encode()),
                    content_hash(n),
                )
                for n, collection, title in self._numbered_pools()
            ),
        )
        yield (
            "circulation_events",
            "collection_id event_id license_pool_id event_type occurred_at counted",
            self._events(),
        )

    def _numbered_pools(self) -> Iterator[tuple[int, int, int]]:
        """Yield number, collection and title of each pool."""
        for n, (collection, title) in enumerate(
            zip(self._pool_collections, self._pool_titles, strict=True), 1
        ):
            yield n, collection, title

    def _prepared_records(self) -> Iterator[bytes]:
        """Yield binary MARC records of about 3 KB, as the vendor's, with a placeholder for the item id."""
        page = parse_marc_page(marc_collection(self._purchases, "alder", self._now).encode())
        for purchase, record in zip(self._purchases, page.records, strict=True):
            yield self._prepare_record(purchase, record)

    def _prepare_record(self, purchase: Purchase, record: MarcRecord) -> bytes:
        marc = parse_marc21(record.as_marc21())
        summary = self._summary()

        def prepare(field: Field) -> Field:
            tag, content = field
            if tag == "520":
                return data_field(tag, content[:2].decode(), ("a", summary))
            return tag, content.replace(purchase.item_id.encode(), _ITEM_ID_PLACEHOLDER)

        return Marc21Record(marc.leader, [prepare(field) for field in marc.fields]).as_marc21()

    def _events(self) -> Iterator[Row]:
        """Yield events of the last year; a few titles have most of the loans."""
        types = ("CHECKOUT", "CHECKIN", "CHECKOUT", "CHECKIN", "HOLD", "RESERVED")
        hours = [str(self._now - timedelta(hours=hours)) for hours in range(365 * 24, 0, -1)]
        count = self.pools * _EVENTS_PER_POOL
        for n in range(count):
            pool = self._popular_index(self.pools)
            yield (
                self._pool_collections[pool],
                f"{n:08}-{multiplicative_hash(n, 2**32):08x}",
                pool + 1,
                types[n % len(types)],
                hours[n * len(hours) // count],
                "t",
            )

    def _pending(self) -> Iterator[_Table]:
        data = f'{{"circulation": {{"as_of": "{self._now.isoformat()}"}}}}'
        yield (
            "apply_outbox",
            "license_pool_id data published_at",
            ((n, data, self._timestamp) for n in range(1, 1 + min(100, self.pools))),
        )
        reason, raw_xml = "It has no title identifier (001).", f"<record>{'x' * 5000}</record>"
        yield (
            "rejected_records",
            "collection_id workflow purchased_on reason raw_xml content_hash created_at resolved_at",
            (
                (
                    n % COLLECTIONS + 1,
                    Workflow.PURCHASES,
                    str(purchase_day(n)),
                    reason,
                    raw_xml,
                    content_hash(n),
                    self._timestamp,
                    self._timestamp if n % 3 else None,
                )
                for n in range(self.pools // 300)
            ),
        )

    def _ledger(self) -> Iterator[_Table]:
        yield "swept_batches", "collection_id after_id identifier_ids swept_at", self._swept_batches()
        yield (
            "timestamps",
            "collection_id service service_type finish counter",
            (
                (number, workflow.service, SERVICE_TYPE, self._timestamp, 0)
                for number in range(1, COLLECTIONS + 1)
                for workflow in SCHEDULED_WORKFLOWS
            ),
        )
        yield (
            "runs",
            "id collection_id workflow task_id state cursor since pages records_fetched records_stored"
            " records_rejected titles_new titles_changed repairs restarts pending_lookups pending_since_page"
            " started_at updated_at finished_at",
            self._runs(),
        )

    def _swept_batches(self) -> Iterator[Row]:
        identifiers: list[list[int]] = [[] for _ in range(COLLECTIONS + 1)]
        for _, collection, title in self._numbered_pools():
            identifiers[collection].append(identifier_row_id(title))
        for collection, row_ids in enumerate(identifiers):
            row_ids.sort()
            after = 0
            for start in range(0, len(row_ids), MAX_ITEMS):
                batch = row_ids[start : start + MAX_ITEMS]
                yield collection, after, f"{{{','.join(map(str, batch))}}}", self._timestamp
                after = batch[-1]

    def _runs(self) -> Iterator[Row]:
        """Yield about as many runs as there are pools: hourly events, daily purchases and circulation."""
        n = 0
        for hours in range(self.pools * 24 // 26 // COLLECTIONS, -1, -1):
            moment = self._now - timedelta(hours=hours)
            start, end = str(moment), str(moment + timedelta(minutes=2))
            times = (start, end, end)
            cursor = f'{{"start": "{start}", "slice_seconds": 300}}'
            daily = {4: [Workflow.PURCHASES], 5: [Workflow.CIRCULATION]}
            for workflow in [Workflow.EVENTS, *daily.get(moment.hour, [])]:
                for collection in range(1, COLLECTIONS + 1):
                    n += 1
                    task_id = f"{multiplicative_hash(n, 2**32):08x}-6f0d-4a6e-9d5a-{n:012x}"
                    counters = (12, 40, 40, 0, 1, 3, 0, 0, 0, 0)
                    yield n, collection, workflow, task_id, "succeeded", cursor, start, *counters, *times


def identifier_row_id(title: int) -> int:
    """Return the id of the row of a title's identifier; the rows of its ISBNs follow."""
    return 3 * title - 2


def isbn_row_ids(title: int) -> range:
    """Return the ids of the rows of a title's ISBNs, one or two."""
    first = identifier_row_id(title) + 1
    return range(first, first + 1 + (title % 3 == 0))


def isbn(row_id: int) -> str:
    """Return a number for that row that looks like an ISBN-13; its check digit is arbitrary."""
    return f"978{multiplicative_hash(row_id, 10**10):010}"


def contributor_name(contributor: int) -> str:
    """Return the display name of a contributor."""
    return f"Given{contributor} Family{contributor % 9973}"


def item_id(title: int) -> str:
    """Return an id like the vendor's: seven letters and digits that say nothing about the order."""
    number, characters = multiplicative_hash(title, 36**7), ""
    for _ in range(7):
        number, digit = divmod(number, 36)
        characters += "0123456789abcdefghijklmnopqrstuvwxyz"[digit]
    return characters


def multiplicative_hash(number: int, size: int) -> int:
    """Map numbers to 0 ... `size` - 1, scattered; `size` consecutive numbers have distinct results."""
    return number * 2_654_435_761 % size


def contributor_sort_name(contributor: int) -> str:
    """Return the name by which a contributor is sorted."""
    return f"Family{contributor % 9973}, Given{contributor}"


def subject_of(title: int, position: int) -> int:
    """Return the number of a title's subject."""
    return multiplicative_hash(title + 997 * position, _SUBJECTS) + 1


def subject_name(subject: int) -> str:
    """Return the heading of a subject."""
    return f"{_CATEGORIES.get(audience(subject), 'FICTION')} / Heading {subject}"


def audience(subject: int) -> Audience:
    """Return the audience of titles with this main subject."""
    return (Audience.CHILDREN, Audience.YOUNG_ADULT, *3 * [Audience.GENERAL])[subject % 5]


def copies(pool: int) -> tuple[int, int, int, PoolStatus]:
    """Return copies owned and available, holds and status: some are on loan, on order or withdrawn."""
    number = multiplicative_hash(pool, 1000)
    if number < _WITHDRAWN_PER_1000:
        return 0, 0, 0, PoolStatus.EXHAUSTED
    if number < _WITHDRAWN_PER_1000 + _ON_ORDER_PER_1000:
        return 2, 2, number % 7, PoolStatus.ON_ORDER
    available = number % 3
    return 2, available, 0 if available else number % 7, PoolStatus.ACTIVE


def content_hash(number: int) -> str:
    """Return 64 hexadecimal digits, like a SHA-256."""
    return f"{multiplicative_hash(number, 2**32):08x}" * 8


def purchase_day(number: int) -> date:
    """Return the day on which the title of a pool was purchased."""
    return date(2014, 1, 1) + timedelta(days=number * 37 % 4200)
