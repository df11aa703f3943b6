"""No session is in a transaction while a request to the vendor is in flight."""

from datetime import timedelta

import httpx
import psycopg
import pytest
from sqlalchemy.orm import Session

from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.broker import Broker
from tests.fixtures.commands import Cli
from tests.fixtures.factories import day
from tests.fixtures.holdings import title_ids
from tests.fixtures.stored import add_holdings, all_runs, set_checkpoint, titles_with_metadata
from tests.fixtures.vendor import raw_record
from tests.fixtures.workers import ObservedVendor, RunStarter, travel_to

NOW = day(2024, 5, 1, 12)
ONE_DAY = timedelta(days=1)
IDLE_TRANSACTIONS = "SELECT query FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"


@pytest.fixture
def idle_transactions(
    servers: ServerUrls,
    vendor: ObservedVendor,
    four_concurrent_requests: None,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """The last statement of each transaction that was open during a request.

    Details of runs are not stored meanwhile: their transactions are short, and no request waits for them.
    """
    monkeypatch.setattr("accession.tasks.write_buffer._BUFFER_SECONDS", 3600)
    statements: list[str] = []

    def record(request: httpx.Request) -> None:
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            statements.extend(query for (query,) in connection.execute(IDLE_TRANSACTIONS))

    vendor.on_request = record
    return statements


def test_runs_wait_for_the_vendor_without_a_transaction(
    collection: Collection,
    session: Session,
    vendor: ObservedVendor,
    idle_transactions: list[str],
    run_starter: RunStarter,
    broker: Broker,
) -> None:
    """The second purchase run also verifies past months, and imports a purchase that it finds missing."""
    vendor.add_purchases(day(2024, 3, 30, 9), "missing")
    vendor.add_purchases(day(2024, 4, 29, 9), *title_ids(30))
    vendor.add_event(NOW - timedelta(minutes=8), "CHECKOUT", "abc")
    for workflow in (Workflow.PURCHASES, Workflow.EVENTS):
        set_checkpoint(collection.id, day(2024, 4, 28), workflow)
    for now in (NOW, NOW + ONE_DAY):
        for workflow in SCHEDULED_WORKFLOWS:
            with travel_to(now):
                run_starter.start(collection, workflow)
                session.commit()
                broker.deliver_all()
                broker.deliver_all("apply")
    assert {run.state for run in all_runs()} == {"succeeded"}
    assert {"missing", *title_ids(30)} <= titles_with_metadata()
    assert idle_transactions == []


@pytest.mark.parametrize("command", ["rejects retry", "titles refresh abc --collection Alder"])
def test_commands_wait_for_the_vendor_without_a_transaction(
    command: str,
    cli: Cli,
    collection: Collection,
    session: Session,
    vendor: ObservedVendor,
    idle_transactions: list[str],
) -> None:
    collection.name = "Alder"
    add_holdings(session, vendor, collection, "abc")
    rejection = RejectedRecordData("It was rejected.", raw_record("abc"), content_hash="")
    store_rejected_records(session, collection, PurchaseDate(NOW.date()), [rejection])
    session.commit()
    assert cli(*command.split()).exit_code == 0
    assert len(vendor.requests) == 1
    assert idle_transactions == []
