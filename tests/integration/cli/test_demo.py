"""The collection of the demo."""

from datetime import timedelta

import time_machine

from accession.cli import demo
from accession.db.engine import transaction
from accession.runs.schedules import take_due_starts
from tests.fixtures.factories import NOON


def test_schedule_starts_no_run_before_the_demo_ends(database: None) -> None:
    """An hourly import of events would write rows while the second import shows that it writes none."""
    next_day = time_machine.travel(NOON + timedelta(days=1), tick=False)
    with time_machine.travel(NOON, tick=False):
        name = demo._add_demo_collection("http://127.0.0.1:9")
    with next_day, transaction() as other:
        assert take_due_starts(other) == []

    with time_machine.travel(NOON, tick=False):
        demo._restore_schedules(name)
    with next_day, transaction() as other:
        assert len(take_due_starts(other)) == 3
