"""Simulated imports from an unreliable vendor; `make chaos` runs more of them, which are also longer."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from accession.catalog.circulation import filter_new_events
from accession.catalog.purchase_records import store_purchase_records
from accession.db.models import Collection
from accession.imports.windows import Width
from tests.chaos.invariants import InvariantViolation
from tests.chaos.simulation import DAY, FULL, SHORT, Scenario, simulate
from tests.chaos.unreliable_vendor import Purchase
from tests.fixtures.broker import Broker

RUNS = int(os.environ.get("CHAOS_RUNS", "0"))
FIRST_SEED = int(os.environ.get("CHAOS_SEED", "0"))
TWO_IMPORTS = Scenario(days=70, daily_imports=0, pauses=[1])


@pytest.mark.parametrize("width", Width)
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + (RUNS or 2)))
def test_catalogue_of_unreliable_vendor_is_complete(
    seed: int, width: Width, broker: Broker, collection: Collection
) -> None:
    simulate(seed, width, FULL if RUNS else SHORT, broker, collection)


# The checks can fail


def test_differences_from_the_vendor_are_reported(broker: Broker, collection: Collection) -> None:
    """The parts are changed in the reverse order of their checks."""
    simulation = simulate(7, Width.MONTH, TWO_IMPORTS, broker, collection)
    vendor = simulation.vendor

    vendor.copies["t0"] = (9, 9, 9)
    with pytest.raises(InvariantViolation, match=r"copy counts differ: \[\('t0', .*, \(9, 9, 9\)\)\]"):
        simulation.check_catalogue()

    vendor.published.add(min(vendor.published)._replace(event_id="unknown"))
    with pytest.raises(InvariantViolation, match=r"Event\(event_id='unknown'.* is missing"):
        simulation.check_catalogue()

    vendor.published.clear()
    with pytest.raises(InvariantViolation, match=r"in excess: {Event"):
        simulation.check_catalogue()

    first = vendor.listed[0]
    vendor.listed.append(Purchase("unknown", first.moment, record=""))
    missing = r"missing: \[Purchase\(item_id='unknown'.*in excess: set\(\)"
    with pytest.raises(InvariantViolation, match=missing):
        simulation.check_catalogue()

    vendor.listed.pop()
    first.moment += 40 * DAY
    with pytest.raises(InvariantViolation, match=r"missing: \[Purchase.*in excess: {StoredPurchase"):
        simulation.check_catalogue()


def store_all_but_one(session: Any, purchases: Mapping[Any, Sequence[Any]]) -> None:
    store_purchase_records(session, {day: records[1:] for day, records in purchases.items()})


def test_confirmed_time_beyond_missing_purchase_is_reported(
    broker: Broker, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accession.imports.purchase_store.store_purchase_records", store_all_but_one)

    with pytest.raises(InvariantViolation, match=r"confirmed until .*, but these are not stored"):
        simulate(0, Width.DAY, TWO_IMPORTS, broker, collection)


def skip_one(*arguments: Any) -> Sequence[Any]:
    return filter_new_events(*arguments)[1:]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("filter_new_events", skip_one),
        ("latest_event_time", lambda *_, **__: None),
        ("MAX_LOOK_BACK", timedelta(minutes=30)),
    ],
    ids=["an event is skipped", "any empty body is believed", "a day is not looked back"],
)
def test_events_checkpoint_beyond_missing_event_is_reported(
    name: str, fault: Any, broker: Broker, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"accession.imports.events.{name}", fault)

    with pytest.raises(InvariantViolation, match=r"the checkpoint of events is .*, but Event.* is missing"):
        simulate(5, Width.DAY, TWO_IMPORTS, broker, collection)


def test_sweep_that_changes_no_counts_is_reported(
    broker: Broker, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accession.imports.circulation.find_changed_titles", lambda *_: [])

    with pytest.raises(InvariantViolation, match="copy counts differ"):
        simulate(7, Width.MONTH, TWO_IMPORTS, broker, collection)
