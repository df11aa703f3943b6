"""A simulated library, and its import without faults, to which imports with faults are compared."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.account import Account
from accession.accounts.collections import add_collection
from accession.catalog.apply import apply_outbox
from accession.core.clock import truncate_to_second, utc_now
from accession.core.workflow import Workflow
from accession.db.models import Collection
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.events import OVERLAP, BibliothecaEventImporter
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import ImportCursor
from accession.runs.ledger import get_or_create_checkpoint
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.vendor import Sandbox
from tests.fixtures.fingerprint import Fingerprint, fingerprint
from tests.fixtures.running_sandbox import RunningSandbox, running_sandbox

EVENTS_PER_HOUR = 600
COLLECTION = "Alder Library"


@contextmanager
def simulated_library(titles: int, days: int) -> Iterator[RunningSandbox]:
    """Run a vendor with `titles` purchases in as many days and an hour of events, which has stopped changing.

    The last ten minutes are left empty: imports skip the latest minutes, so events there would be imported
    by a later import only.
    """
    end = truncate_to_second(utc_now()) - timedelta(minutes=10)
    start = end - timedelta(hours=1)
    catalogue = build_catalogue(titles, start - timedelta(days=days), start, seed=4)
    activity = Activity(catalogue, EVENTS_PER_HOUR, start, seed=4)
    activity.change_rate(0, end)
    with running_sandbox(Sandbox(catalogue, activity=activity)) as sandbox:
        yield sandbox


def first_purchase(sandbox: RunningSandbox) -> datetime:
    """Return the time of the library's first purchase, which precedes all events."""
    return min(purchase.purchased_at for purchase in sandbox.catalogue.purchases)


def add_library(session: Session, sandbox: RunningSandbox, base_url: str | None = None) -> Collection:
    """Add the library's collection, whose workflows start at the first purchase and the first event.

    Otherwise they would start in 2014 and ten minutes ago. `base_url` is that of the vendor as seen from the
    workers, if they run on another machine.
    """
    account = sandbox.account
    collection = add_collection(
        session,
        Account(
            collection=COLLECTION,
            library_id=account.library_id,
            account_id=account.account_id,
            account_key=SecretStr(account.account_key),
            base_url=base_url or sandbox.base_url,
        ),
    )
    start = first_purchase(sandbox)
    get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish = start
    events = sandbox.sandbox.activity.between(start, utc_now())
    get_or_create_checkpoint(session, collection, Workflow.EVENTS).finish = events[0].moment
    return collection


def baseline_import(session: Session, sandbox: RunningSandbox) -> Fingerprint:
    """Import the library with plain function calls in this process, commit, and return the fingerprint."""
    collection = add_library(session, sandbox)
    api = vendor_api_for(collection)
    now = truncate_to_second(utc_now())

    purchases = BibliothecaPurchaseRecordImporter(session, collection, api)
    cursor = ImportCursor(purchases.get_start())
    while cursor.current_day < now:
        page = purchases.import_day(cursor, now)
        apply_outbox(session, page.outbox_ids)
        cursor = page.next_cursor

    events = BibliothecaEventImporter(session, collection, api)
    start, cutoff = events.get_start(now - OVERLAP), now - OVERLAP
    while start < cutoff:
        time_slice = events.import_time_slice(start, cutoff)
        apply_outbox(session, time_slice.outbox_ids)
        start = time_slice.slice_end

    sweep = BibliothecaCirculationUpdater(session, collection, api)
    offset: int | None = 0
    while offset is not None:
        batch = sweep.update_batch(offset)
        apply_outbox(session, batch.outbox_ids)
        offset = batch.next_offset

    session.commit()
    return fingerprint(session)
