"""A made-up catalogue of any size, copied straight into an empty database; the same for the same size.

Two hundred collections of very different sizes: the biggest has a fifth of all pools, the smallest a few;
three pools in ten are of a title that another collection holds, too. With them comes all that belongs to
them, two events for each, and a ledger of half a year of hourly events and daily purchases and sweeps.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

from pydantic import SecretStr
from pymarc import Record
from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.orm import Session

from accession.accounts.collections import add_collection
from accession.bibliotheca.client import MOST_ITEMS
from accession.bibliotheca.items import DATA_SOURCE
from accession.bibliotheca.marc import parse_marc_page
from accession.core.clock import utc_now
from accession.core.vocabulary import IdentifierType, LinkRel, Role, SubjectScheme
from accession.core.workflow import Workflow
from accession.db.models import Base, PoolStatus
from accession.runs.ledger import SERVICE_TYPE
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.documents import marc_collection

COLLECTIONS = 200
_SHARE_OF_THE_BIGGEST = 0.2
_SIZE_OF_THE_NEXT = 0.96
_SHARE_OF_TITLES = 0.7
_SUBJECTS = 4000
_EVENTS_A_POOL = 2
_WORKS = 200
_WORDS_OF_A_SUMMARY = 230

# Where the item id is in a prepared record.
_PLACE = b"======="

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Made:
    """A catalogue in the database: its size, and two of its collections by id."""

    pools: int
    titles: int
    runs: int
    biggest: int
    smallest: int


class Catalogue:
    """The rows of every table, most of them by arithmetic on their numbers.

    Titles, pools and collections are numbered from 1.
    """

    def __init__(self, pools: int) -> None:
        self.pools = pools
        self._titles = range(1, 1 + int(pools * _SHARE_OF_TITLES))
        self._dice = random.Random(pools)  # noqa: S311 - repeatable is the point
        self._now = utc_now().replace(minute=0, second=0, microsecond=0)
        self._stamp = str(self._now)
        bought = build_catalogue(_WORKS, datetime(2014, 1, 1, tzinfo=UTC), self._now, unusable=0)
        self._purchases = bought.purchases

    @property
    def titles(self) -> int:
        """How many titles there are, each with an edition."""
        return len(self._titles)

    @cached_property
    def _owners(self) -> Sequence[int]:
        """The collection of each pool. They all grew at once, so that pools of each lie among the others'."""
        biggest = int(self.pools * _SHARE_OF_THE_BIGGEST)
        weights = [_SIZE_OF_THE_NEXT**n for n in range(COLLECTIONS - 1)]
        share = (self.pools - biggest) / sum(weights)
        sizes = [biggest, *(max(1, int(share * weight)) for weight in weights)]
        sizes[1] += self.pools - sum(sizes)
        owners = [number for number, size in enumerate(sizes, 1) for _ in range(size)]
        self._dice.shuffle(owners)
        return owners

    @cached_property
    def _held(self) -> Sequence[int]:
        """The title of each pool: a new one, and of those added last one that another collection holds."""
        held = list(self._titles)
        taken: set[tuple[int, int]] = set()
        for owner in self._owners[self.titles :]:
            title = self._popular(self.titles) + 1
            while self._owners[title - 1] == owner or (owner, title) in taken:
                title = self._popular(self.titles) + 1
            taken.add((owner, title))
            held.append(title)
        return held

    def _popular(self, size: int) -> int:
        """A number below `size`, the low ones more often: one in ten is of the first hundredth."""
        return int(size * self._dice.random() ** 2)

    def tables(self) -> Iterator[tuple[str, str, Iterable[Row]]]:
        """Each table, its columns that are given, and its rows."""
        yield "identifiers", "id type identifier", self._identifiers()
        yield (
            "identifier_equivalents",
            "identifier_id equivalent_id data_source position",
            (
                (identifier_of(n), isbn, DATA_SOURCE, place)
                for n in self._titles
                for place, isbn in enumerate(isbns_of(n))
            ),
        )
        yield from self._descriptions()
        yield from self._holdings()
        yield from self._waiting()
        yield from self._ledger()

    def _identifiers(self) -> Iterator[Row]:
        for n in self._titles:
            yield identifier_of(n), IdentifierType.BIBLIOTHECA, item_id(n)
            for isbn in isbns_of(n):
                yield isbn, IdentifierType.ISBN, isbn_of(isbn)

    def _descriptions(self) -> Iterator[tuple[str, str, Iterable[Row]]]:
        yield (
            "editions",
            "id data_source identifier_id title subtitle publisher published language description page_count"
            " medium format search_text content_hash as_of created_at updated_at",
            self._editions(),
        )
        yield (
            "contributors",
            "id sort_name display_name",
            ((n, f"Family{n % 9973}, Given{n}", name_of(n)) for n in self._people),
        )
        yield (
            "contributions",
            "edition_id contributor_id role position",
            (
                (n, person, role, place)
                for n in self._titles
                for place, (person, role) in enumerate(
                    zip(self._people_of(n), (Role.AUTHOR, Role.NARRATOR), strict=False)
                )
            ),
        )
        yield (
            "subjects",
            "id scheme name",
            ((n, SubjectScheme.BISAC, f"FICTION / Heading {n}") for n in range(1, _SUBJECTS + 1)),
        )
        yield (
            "classifications",
            "edition_id subject_id position",
            ((n, spread(n + 997 * place, _SUBJECTS) + 1, place) for n in self._titles for place in range(3)),
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
    def _people(self) -> Sequence[int]:
        return range(1, 2 + self.titles // 3)

    def _people_of(self, title: int) -> list[int]:
        """An author, and of every third title a narrator."""
        places = range(1 + (title % 3 == 0))
        return [spread(title + place, len(self._people)) + 1 for place in places]

    def _editions(self) -> Iterator[Row]:
        known = [(p.work, str(p.published), self._summary()[:900]) for p in self._purchases]
        for n in self._titles:
            work, published, summary = known[n % len(known)]
            title, people = f"{work.title}, {n}", map(name_of, self._people_of(n))
            names = (title, work.subtitle, *people, work.publisher, *map(isbn_of, isbns_of(n)), item_id(n))
            yield (
                n,
                DATA_SOURCE,
                identifier_of(n),
                title,
                work.subtitle or None,
                work.publisher,
                published,
                "eng",
                summary,
                work.pages,
                "book",
                "epub",
                " ".join(filter(None, names)),
                f"1:{hash_of(n)}",
                self._stamp,
                self._stamp,
                self._stamp,
            )

    def _summary(self) -> str:
        words = " ".join(purchase.work.title for purchase in self._purchases).split()
        return " ".join(self._dice.choices(words, k=_WORDS_OF_A_SUMMARY))

    def _holdings(self) -> Iterator[tuple[str, str, Iterable[Row]]]:
        # A snapshot that says what is known already is not written: some are a year old.
        asked, stamp = [str(self._now - timedelta(days=days)) for days in range(365)], self._stamp
        yield (
            "license_pools",
            "id collection_id identifier_id data_source licenses_owned licenses_available status"
            " circulation_as_of snapshot_owned snapshot_available created_at updated_at",
            (
                (
                    n,
                    owner,
                    identifier_of(title),
                    DATA_SOURCE,
                    *(2, 1, PoolStatus.ACTIVE),
                    *(asked[n % len(asked)], 2, 1),
                    stamp,
                    stamp,
                )
                for n, (owner, title) in enumerate(zip(self._owners, self._held, strict=True), 1)
            ),
        )
        records = list(self._prepared_records())
        yield (
            "purchase_records",
            "collection_id license_pool_id purchased_on marc content_hash",
            (
                (
                    *(owner, n, day_of(n)),
                    records[n % len(records)].replace(_PLACE, item_id(title).encode()),
                    hash_of(n),
                )
                for n, (owner, title) in enumerate(zip(self._owners, self._held, strict=True), 1)
            ),
        )
        yield (
            "circulation_events",
            "collection_id event_id license_pool_id event_type occurred_at counted",
            self._events(),
        )

    def _prepared_records(self) -> Iterator[bytes]:
        """Records of some 3 KB, as the vendor's are, with a place for the item's id."""
        document = marc_collection(self._purchases, "alder", self._now)
        for purchase, kept in zip(self._purchases, parse_marc_page(document.encode()).records, strict=True):
            record = Record(kept.as_marc21())
            record["520"]["a"] = self._summary()
            known = purchase.item_id.encode()
            yield record.as_marc21().replace(known, _PLACE)

    def _events(self) -> Iterator[Row]:
        """Those of the last year; a few titles have most of the readers."""
        kinds = ("CHECKOUT", "CHECKIN", "CHECKOUT", "CHECKIN", "HOLD", "RESERVED")
        moments = [str(self._now - timedelta(hours=hours)) for hours in range(365 * 24, 0, -1)]
        events = self.pools * _EVENTS_A_POOL
        for n in range(events):
            pool = self._popular(self.pools)
            yield (
                self._owners[pool],
                f"{n:08}-{spread(n, 2**32):08x}",
                pool + 1,
                kinds[n % len(kinds)],
                moments[n * len(moments) // events],
                "t",
            )

    def _waiting(self) -> Iterator[tuple[str, str, Iterable[Row]]]:
        data = f'{{"circulation": {{"as_of": "{self._now.isoformat()}"}}}}'
        yield (
            "apply_outbox",
            "license_pool_id data published_at",
            ((n, data, self._stamp) for n in range(1, 1 + min(100, self.pools))),
        )
        reason, raw_xml = "It has no title identifier (001).", f"<record>{'x' * 5000}</record>"
        yield (
            "rejected_records",
            "collection_id workflow purchased_on reason raw_xml content_hash created_at resolved_at",
            (
                (
                    n % COLLECTIONS + 1,
                    Workflow.PURCHASES,
                    str(day_of(n)),
                    reason,
                    raw_xml,
                    hash_of(n),
                    self._stamp,
                    self._stamp if n % 3 else None,
                )
                for n in range(self.pools // 300)
            ),
        )

    def _ledger(self) -> Iterator[tuple[str, str, Iterable[Row]]]:
        yield "swept_batches", "collection_id after_id identifier_ids swept_at", self._swept()
        yield (
            "timestamps",
            "collection_id service service_type finish counter",
            (
                (number, workflow.service, SERVICE_TYPE, self._stamp, 0)
                for number in range(1, COLLECTIONS + 1)
                for workflow in Workflow
            ),
        )
        yield (
            "runs",
            "id collection_id workflow task_id state cursor since pages records_fetched records_stored"
            " records_rejected titles_new titles_changed repairs started_at updated_at finished_at",
            self._runs(),
        )

    def _swept(self) -> Iterator[Row]:
        held: list[list[int]] = [[] for _ in range(COLLECTIONS + 1)]
        for owner, title in zip(self._owners, self._held, strict=True):
            held[owner].append(identifier_of(title))
        for owner, identifiers in enumerate(held):
            identifiers.sort()
            after = 0
            for start in range(0, len(identifiers), MOST_ITEMS):
                told = identifiers[start : start + MOST_ITEMS]
                yield owner, after, f"{{{','.join(map(str, told))}}}", self._stamp
                after = told[-1]

    def _runs(self) -> Iterator[Row]:
        """As many as there are pools: of every hour events, of every day purchases and a sweep, until now."""
        n = 0
        for hours in range(self.pools * 24 // 26 // COLLECTIONS, -1, -1):
            moment = self._now - timedelta(hours=hours)
            began, ended = str(moment), str(moment + timedelta(minutes=2))
            moments = (began, ended, ended)
            cursor = f'{{"start": "{began}", "slice_seconds": 300}}'
            daily = {4: [Workflow.PURCHASES], 5: [Workflow.CIRCULATION]}
            for workflow in [Workflow.EVENTS, *daily.get(moment.hour, [])]:
                for owner in range(1, COLLECTIONS + 1):
                    n += 1
                    task_id = f"{spread(n, 2**32):08x}-6f0d-4a6e-9d5a-{n:012x}"
                    counters = (12, 40, 40, 0, 1, 3, 0)
                    yield n, owner, workflow, task_id, "succeeded", cursor, began, *counters, *moments


def identifier_of(title: int) -> int:
    """The id of the row of a title's identifier; those of its ISBNs come after it."""
    return 3 * title - 2


def isbns_of(title: int) -> range:
    """The ids of the rows of a title's ISBNs, one or two."""
    first = identifier_of(title) + 1
    return range(first, first + 1 + (title % 3 == 0))


def isbn_of(identifier: int) -> str:
    """What looks like the ISBN of that row."""
    return f"978{spread(identifier, 10**10):010}"


def name_of(person: int) -> str:
    """The name of a contributor."""
    return f"Given{person} Family{person % 9973}"


def item_id(title: int) -> str:
    """Seven letters and digits, as the vendor's, which tell nothing of the order."""
    number, letters = spread(title, 36**7), ""
    for _ in range(7):
        number, letter = divmod(number, 36)
        letters += "0123456789abcdefghijklmnopqrstuvwxyz"[letter]
    return letters


def spread(number: int, size: int) -> int:
    """One of `size` numbers in no order: each once, of so many numbers that follow each other."""
    return number * 2_654_435_761 % size


def hash_of(number: int) -> str:
    """What looks like a SHA-256."""
    return f"{spread(number, 2**32):08x}" * 8


def day_of(number: int) -> date:
    """The day of a purchase."""
    return date(2014, 1, 1) + timedelta(days=number * 37 % 4200)


def fill(engine: Engine, pools: int) -> Made:
    """Afterwards the database, which has the schema and no rows, holds a catalogue of so many pools.

    Keys and indexes are taken away first and made anew from the filled tables, as a restore does.
    """
    catalogue = Catalogue(pools)
    with Session(engine) as session, session.begin():
        for number in range(1, COLLECTIONS + 1):
            add_collection(
                session,
                name=f"Library {number:03}",
                library_id=f"library{number}",
                account_id=f"library.{number}",
                account_key=SecretStr("a-key"),
                base_url="http://127.0.0.1:9",
            )
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
        # They are too short and varied to get smaller; to find that out takes a minute for a million.
        connection.execute(text("ALTER TABLE purchase_records ALTER marc SET STORAGE EXTERNAL"))
        definitions = take_away_keys(connection)
        for table, columns, rows in catalogue.tables():
            copy(connection, table, columns.split(), rows)
        for definition in definitions:
            connection.execute(text(definition))
        connection.execute(text("ALTER TABLE purchase_records ALTER marc SET STORAGE DEFAULT"))
        runs = set_sequences(connection)["runs"]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
    return Made(pools, catalogue.titles, runs, biggest=1, smallest=COLLECTIONS)


def take_away_keys(connection: Connection) -> list[str]:
    """Drop every key and index; returns the statements that make them again, in their order."""
    keys = connection.execute(
        text(
            "SELECT conrelid::regclass AS owner, conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'f')"
            " AND conrelid != 'alembic_version'::regclass ORDER BY contype = 'f'"
        )
    ).all()
    for table, name, _ in reversed(keys):
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
    indexes = connection.execute(
        text(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
            " AND tablename != 'alembic_version'"
        )
    ).all()
    for name, _ in indexes:
        connection.execute(text(f"DROP INDEX {name}"))
    return [
        *(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}" for table, name, definition in keys),
        *(definition for _, definition in indexes),
    ]


def copy(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Copy rows into an empty table, as if they had been vacuumed."""
    connection.execute(text(f"TRUNCATE {table}"))
    driver: Any = connection.connection.dbapi_connection
    # Only records are bytes, which are half as long in binary.
    form = "binary" if "marc" in columns else "text"
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT {form}, FREEZE)"
    with driver.cursor() as cursor, cursor.copy(statement) as copying:
        if form == "binary":
            copying.set_types(["int4", "int4", "date", "bytea", "text"])
        for row in rows:
            copying.write_row(row)


def set_sequences(connection: Connection) -> dict[str, int]:
    """Afterwards new rows get ids beyond those that there are; returns the last ids by table."""
    last = {
        name: connection.scalar(select(func.max(table.c.id)))
        for name, table in Base.metadata.tables.items()
        if "id" in table.c
    }
    for name, number in last.items():
        if number is not None:
            connection.execute(select(func.setval(func.pg_get_serial_sequence(name, "id"), number)))
    return {name: number or 0 for name, number in last.items()}
