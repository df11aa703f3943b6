"""Effect of circulation events on copy counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.core.vocabulary import EventType
from accession.db.models import CopyCounts, counts_after_events

TYPES = [*(event_type.value for event_type in EventType), "RENEWED"]


@pytest.mark.parametrize(
    ("event_type", "before", "after"),
    [
        # owned, available, reserved, holds
        ("PURCHASE", (1, 0, 0, 0), (2, 1, 0, 0)),
        ("PURCHASE", (1, 0, 0, 2), (2, 0, 0, 2)),
        ("PURCHASE", (0, 0, 0, 0), (1, 1, 0, 0)),
        ("REMOVED", (2, 1, 0, 0), (1, 1, 0, 0)),
        ("REMOVED", (2, 2, 0, 0), (1, 1, 0, 0)),
        ("REMOVED", (0, 0, 0, 0), (0, 0, 0, 0)),
        ("CHECKOUT", (2, 2, 1, 0), (2, 1, 1, 0)),
        ("CHECKOUT", (2, 0, 1, 0), (2, 0, 0, 0)),
        ("CHECKOUT", (2, 0, 0, 1), (2, 0, 0, 1)),
        ("CHECKIN", (2, 0, 0, 0), (2, 1, 0, 0)),
        ("CHECKIN", (2, 0, 0, 1), (2, 0, 0, 1)),
        ("CHECKIN", (2, 2, 0, 0), (2, 2, 0, 0)),
        ("HOLD", (2, 0, 0, 1), (2, 0, 0, 2)),
        ("HOLD", (2, 1, 0, 0), (2, 0, 0, 1)),
        ("RESERVED", (2, 0, 0, 2), (2, 0, 1, 1)),
        ("RESERVED", (2, 0, 0, 0), (2, 0, 1, 0)),
        ("RENEWED", (2, 1, 1, 1), (2, 1, 1, 1)),
    ],
)
def test_event_changes_counts(
    event_type: str, before: tuple[int, int, int, int], after: tuple[int, int, int, int]
) -> None:
    assert CopyCounts(*before).after(event_type) == CopyCounts(*after)


def model(start: tuple[int, int, int, int], event_types: list[str]) -> dict[str, int]:
    """Apply the documented rules one by one."""
    state = dict(zip(("owned", "available", "reserved", "holds"), start, strict=True))
    for event_type in event_types:
        state["available"] = min(state["available"], state["owned"])
        if event_type == "PURCHASE":
            state["owned"] += 1
            if state["holds"] == 0:
                state["available"] += 1
        if event_type == "REMOVED":
            state["owned"] -= 1
        if event_type == "CHECKOUT":
            state["available" if state["available"] > 0 else "reserved"] -= 1
        if event_type == "CHECKIN" and state["holds"] == 0:
            state["available"] += 1
        if event_type == "HOLD":
            state["holds"] += 1
            state["available"] = 0
        if event_type == "RESERVED":
            state["holds"] -= 1
            state["reserved"] += 1
        for name in state:
            state[name] = max(state[name], 0)
        state["available"] = min(state["available"], state["owned"])
    return state


few = st.integers(0, 4)


@given(owned=few, available=few, reserved=few, holds=few, event_types=st.lists(st.sampled_from(TYPES)))
def test_event_sequence_follows_documented_rules(
    owned: int, available: int, reserved: int, holds: int, event_types: list[str]
) -> None:
    start = (owned, available, reserved, holds)

    counts = counts_after_events(CopyCounts(*start), event_types)

    assert vars(counts) == model(start, event_types)
    assert min(vars(counts).values()) >= 0
    assert counts.available <= counts.owned or not event_types
