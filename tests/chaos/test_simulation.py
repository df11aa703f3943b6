"""Simulated imports from an unreliable vendor; `make chaos` runs more of them, which are also longer."""

import os
from collections.abc import Sequence
from typing import Any

import pytest

from accession.catalog.purchase_records import store_purchase_records
from accession.db.models import Collection
from accession.imports.windows import Width
from tests.chaos.invariants import InvariantViolation
from tests.chaos.simulation import DAY, FULL, SHORT, simulate
from tests.chaos.unreliable_vendor import Purchase
from tests.fixtures.broker import Broker

RUNS = int(os.environ.get("CHAOS_RUNS", "0"))
FIRST_SEED = int(os.environ.get("CHAOS_SEED", "0"))


@pytest.mark.parametrize("width", Width)
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + (RUNS or 2)))
def test_purchases_of_unreliable_vendor_are_all_imported(
    seed: int, width: Width, broker: Broker, collection: Collection
) -> None:
    simulate(seed, width, FULL if RUNS else SHORT, broker, collection)


def test_missing_and_moved_purchases_are_reported(broker: Broker, collection: Collection) -> None:
    simulation = simulate(1, Width.MONTH, SHORT, broker, collection)
    first = simulation.vendor.listed[0]
    simulation.vendor.listed.append(Purchase("unknown", first.moment, record=""))
    with pytest.raises(
        InvariantViolation, match=r"missing: \[Purchase\(item_id='unknown'.*in excess: set\(\)"
    ):
        simulation.check_catalogue()

    simulation.vendor.listed.pop()
    first.moment += 40 * DAY
    with pytest.raises(InvariantViolation, match=r"missing: \[Purchase.*in excess: {StoredPurchase"):
        simulation.check_catalogue()


def test_confirmed_time_beyond_missing_purchase_is_reported(
    broker: Broker, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store_all_but_one(session: Any, purchase_date: Any, records: Sequence[Any], **options: Any) -> None:
        store_purchase_records(session, purchase_date, records[1:], **options)

    monkeypatch.setattr("accession.imports.purchases.store_purchase_records", store_all_but_one)
    with pytest.raises(InvariantViolation, match=r"confirmed until .*, but these are not stored"):
        simulate(0, Width.DAY, SHORT, broker, collection)
