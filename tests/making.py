"""Making what tests start from."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import time_machine
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, MetaData, Table, event, select, text
from sqlalchemy.orm import Session

from accession.catalog import schema
from accession.catalog.apply import apply_outbox, put_in_outbox
from accession.catalog.circulation import record_events
from accession.catalog.collections import add_collection
from accession.catalog.data import (
    BibliographicData,
    CirculationData,
    ContributorData,
    EventData,
    Format,
    IdentifierType,
    LinkData,
    LinkRel,
    Medium,
    Role,
    SubjectData,
    SubjectScheme,
    TitleData,
)
from accession.catalog.ledger import (
    Counters,
    Workflow,
    find_run,
    note_looked_up,
    note_retry,
    note_swept,
    open_run,
    record_page,
    timestamp,
)
from accession.catalog.models import Collection, LicensePool, RunTotals
from accession.catalog.records import (
    PurchaseDate,
    Rejection,
    StoredRecord,
    keep_rejected,
    store_purchase_records,
)
from accession.catalog.users import Feed, add_feed_token, add_token, add_user
from accession.catalog.users import Role as UserRole
from accession.database import engine, make_engine

SOURCE = "Bibliotheca"
ACCOUNT_KEY = "alder-account-key"
PASSWORD = "correct horse battery"
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NEWEST_SCHEMA = max(
    path.name[:4] for path in (Path(schema.__file__).parent / "migrations" / "versions").glob("0*.py")
)


def day(year: int, month: int, number: int, hour: int = 0, minute: int = 0) -> datetime:
    """A moment in UTC."""
    return datetime(year, month, number, hour, minute, tzinfo=UTC)


def make_collection(session: Session, name: str) -> Collection:
    """A committed collection whose vendor is on this machine."""
    collection = add_collection(
        session,
        name=name,
        library_id="alder",
        account_id="library.alder",
        account_key=SecretStr(ACCOUNT_KEY),
        base_url="http://127.0.0.1:9",
    )
    session.commit()
    return collection


def make_pool(session: Session, collection: Collection, identifier: str) -> LicensePool:
    """A committed pool of the collection."""
    pool, _ = LicensePool.for_foreign_id(
        session, SOURCE, IdentifierType.BIBLIOTHECA, identifier, collection=collection
    )
    session.commit()
    return pool


def put_something_everywhere(engine: Engine) -> None:
    """A collection with a row in every table; committed."""
    with Session(engine) as session:
        collection = make_collection(session, "Alder Library")
        pool = make_pool(session, collection, "abc")
        for title in ("Earlier", "Title abc"):
            apply_outbox(session, put_in_outbox(session, [(pool, title_data("abc", title=title))]))
        put_in_outbox(session, [(pool, title_data("abc", title="Later"))])
        record_events(session, collection, {"abc": pool}, [event_data("1", "CHECKOUT", "abc", at=NOON)])
        note_swept(session, collection, after_id=0, last_id=None, told=[pool.identifier_id], at=NOON)
        store_purchase_records(
            session, PurchaseDate(NOON.date()), [StoredRecord(pool, lambda: b"marc", "hash")]
        )
        keep_rejected(
            session, collection, PurchaseDate(NOON.date()), [Rejection("It has no id.", "<record/>", "hash")]
        )
        timestamp(session, collection, Workflow.PURCHASES)
        with time_machine.travel(NOON, tick=False):
            open_run(session, collection.id, Workflow.PURCHASES, "task", {"offset": 1})
        run = find_run(session, "task")
        assert run is not None
        note_looked_up(session, run, ["abc"])
        record_page(run, Counters(), since=None, next_cursor={"offset": 51})
        note_retry(run, "The vendor is away.", retry=1)
        add_user(session, "ann", SecretStr(PASSWORD), UserRole.OPERATOR)
        add_token(session, "script", UserRole.VIEWER)
        add_feed_token(session, "reading app", [Feed.OPDS], collection.name)
        session.add(
            RunTotals(workflow=Workflow.PURCHASES, **vars(Counters(records_fetched=1, records_stored=1)))
        )
        session.commit()


def person(sort_name: str, role: Role = Role.AUTHOR) -> ContributorData:
    """A contributor by "Last, First"."""
    last, _, first = sort_name.partition(", ")
    return ContributorData(sort_name=sort_name, display_name=f"{first} {last}".strip(), role=role)


def subject(name: str) -> SubjectData:
    """A BISAC subject."""
    return SubjectData(scheme=SubjectScheme.BISAC, name=name)


def title_data(identifier: str, *, as_of: datetime = NOON, **changes: Any) -> TitleData:
    """A title as a vendor may describe it; `changes` to its description or its counts."""
    counts = {"licenses_owned": 2, "licenses_available": 1, "patrons_in_hold_queue": 0}
    described: dict[str, Any] = {
        "title": f"Title {identifier}",
        "contributors": (person("Lem, Stanisław"), person("Reader, Rita", Role.NARRATOR)),
        "publisher": "Wydawnictwo",
        "published": "1961",
        "language": "pol",
        "isbns": ("9788308068298",),
        "subjects": (subject("FICTION / Science Fiction"),),
        "links": (LinkData(rel=LinkRel.COVER, href="https://images.example/1"),),
        "medium": Medium.BOOK,
        "format": Format.EPUB,
    }
    for name, value in changes.items():
        (counts if name in counts or name == "licenses_reserved" else described)[name] = value
    return TitleData(
        bibliographic=BibliographicData(
            data_source=SOURCE,
            identifier_type=IdentifierType.BIBLIOTHECA,
            identifier=identifier,
            as_of=as_of,
            **described,
        ),
        circulation=CirculationData(as_of=as_of, **counts),
    )


def event_data(
    event_id: str,
    event_type: str,
    identifier: str = "solaris",
    *,
    at: datetime = NOON,
    isbn: str | None = "9788308068298",
) -> EventData:
    """An event as a vendor may tell it."""
    return EventData(
        event_id=event_id, event_type=event_type, identifier=identifier, occurred_at=at, isbn=isbn
    )


def counts_data(
    owned: int, available: int, holds: int, *, as_of: datetime, reserved: int | None = None
) -> CirculationData:
    """A snapshot as a vendor may give it."""
    return CirculationData(
        as_of=as_of,
        licenses_owned=owned,
        licenses_available=available,
        patrons_in_hold_queue=holds,
        licenses_reserved=reserved,
    )


PATIENCE = 30.0


class Job(threading.Thread):
    """Work in a thread of its own; `finish` raises what it raised, and fails when it hangs."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        self.join(PATIENCE)
        assert not self.is_alive(), "a job hangs"
        if self._error is not None:
            raise self._error


def side_by_side(*jobs: Callable[[], object]) -> None:
    """Run `jobs` in threads of their own to their ends."""
    for job in [Job(job) for job in jobs]:
        job.finish()


def wait_for_blocked(connection: Connection, count: int) -> None:
    """Afterwards `count` other connections of this database wait for a lock."""
    blocked = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    deadline = time.monotonic() + PATIENCE
    while connection.scalar(blocked) != count:
        connection.execute(text("SELECT pg_stat_clear_snapshot()"))
        assert time.monotonic() < deadline, f"there are not {count} connections that wait for a lock"


@contextmanager
def scratch_database(template: str = "template1") -> Iterator[Engine]:
    """An engine on a database of its own, without a table or with those of the template, on this process's
    server."""
    name = f"scratch_{uuid4().hex}"
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
        admin.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        scratch = make_engine(engine().url.set(database=name).render_as_string(hide_password=False))
        try:
            yield scratch
        finally:
            scratch.dispose()
            admin.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def statements_of(connections: Engine) -> Iterator[list[str]]:
    """The SQL that is sent meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(connections, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(connections, "before_cursor_execute", note)


def rows_of(engine: Engine, name: str) -> list[dict[str, Any]]:
    """Every row of a table as it is now, whichever columns it has."""
    table = Table(name, MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        rows = connection.execute(select(table).order_by(*table.primary_key)).mappings()
        return [dict(row) for row in rows]
