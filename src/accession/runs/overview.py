"""Filter and sort the health of collections, for the lists of dashboard, API and command line."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Self

from accession.core.sort_order import format_sort_order, parse_sort_order
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import ACTIVE_STATES
from accession.runs.health import CollectionHealth, HealthState, WorkflowHealth

_CAUSE_ID_LENGTH = 12
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class HealthFilter(StrEnum):
    """A condition on a collection. One collection can meet several."""

    FAILING = "failing"
    """A workflow is failing."""
    RUNNING = "running"
    """A run is in progress, queued or retrying."""
    PAUSED = "paused"
    """A workflow is paused."""
    STALE = "stale"
    """A workflow has had no success since its scheduled run, whatever it is doing now."""
    NEVER_IMPORTED = "never-imported"
    """No import of purchases has succeeded yet."""


class SortKey(StrEnum):
    """Key by which a list of collections is sorted; a workflow stands for its last success."""

    HEALTH = "health"
    NAME = "name"
    TITLES = "titles"
    PURCHASED = "purchased"
    PURCHASES = "purchases"
    EVENTS = "events"
    CIRCULATION = "circulation"
    REJECTED = "rejected"


@dataclass(frozen=True)
class SortOrder:
    """An order of collections, written as `titles`, or as `-titles` for descending."""

    key: SortKey = SortKey.HEALTH
    is_descending: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the order that is written like this.

        Raises:
            InvalidInput: there is no such key.
        """
        return cls(*parse_sort_order(text, SortKey))

    def __str__(self) -> str:
        return format_sort_order(self.key, is_descending=self.is_descending)


@dataclass(frozen=True)
class CollectionQuery:
    """Conditions on collections, and their order.

    `text` is part of the name; `cause` is the id of the cause (`cause_id`) of a failing or retrying workflow.
    """

    condition: HealthFilter | None = None
    text: str = ""
    cause: str = ""
    order: SortOrder = SortOrder()

    def select(self, collections: Iterable[CollectionHealth]) -> list[CollectionHealth]:
        """Return the collections that meet all conditions, in order; equal ones by name."""
        text = self.text.strip().casefold()
        selected = [
            collection
            for collection in collections
            if text in collection.name.casefold()
            and (self.condition is None or _CONDITIONS[self.condition](collection))
            and (not self.cause or self.cause in map(cause_id, causes_of(collection)))
        ]
        selected.sort(key=lambda collection: collection.name.casefold())
        selected.sort(key=_SORT_VALUES[self.order.key], reverse=self.order.is_descending)
        return selected

    def count_by_condition(self, collections: Sequence[CollectionHealth]) -> dict[HealthFilter | None, int]:
        """Return how many collections each condition would select; with None, how many without any."""
        selected = replace(self, condition=None).select(collections)
        counts: dict[HealthFilter | None, int] = {None: len(selected)}
        for condition, is_met in _CONDITIONS.items():
            counts[condition] = sum(map(is_met, selected))
        return counts


def cause_id(cause: str) -> str:
    """Return a short id of a cause, for addresses."""
    return sha256(cause.encode()).hexdigest()[:_CAUSE_ID_LENGTH]


def find_workflow(collection: CollectionHealth, workflow: str) -> WorkflowHealth:
    """Return the health of a scheduled workflow of the collection."""
    return next(each for each in collection.workflows if each.workflow == workflow)


def causes_of(collection: CollectionHealth) -> dict[str, list[str]]:
    """Return the causes of the collection's failures, each with the workflows that it concerns."""
    causes: dict[str, list[str]] = {}
    for workflow in _scheduled(collection):
        if workflow.cause is not None:
            causes.setdefault(workflow.cause, []).append(workflow.workflow)
    return causes


def _scheduled(collection: CollectionHealth) -> Iterable[WorkflowHealth]:
    return (each for each in collection.workflows if each.workflow in SCHEDULED_WORKFLOWS)


_CONDITIONS: Mapping[HealthFilter, Callable[[CollectionHealth], bool]] = {
    HealthFilter.FAILING: lambda c: any(each.health is HealthState.FAILING for each in _scheduled(c)),
    HealthFilter.RUNNING: lambda c: any(each.state in ACTIVE_STATES for each in c.workflows),
    HealthFilter.PAUSED: lambda c: any(each.pause is not None for each in c.workflows),
    HealthFilter.STALE: lambda c: any(each.is_overdue for each in c.workflows),
    HealthFilter.NEVER_IMPORTED: lambda c: find_workflow(c, Workflow.PURCHASES).last_success is None,
}

_SORT_VALUES: Mapping[SortKey, Callable[[CollectionHealth], Any]] = {
    SortKey.HEALTH: lambda c: c.health is not HealthState.FAILING,
    SortKey.NAME: lambda c: c.name.casefold(),
    SortKey.TITLES: lambda c: c.titles,
    SortKey.PURCHASED: lambda c: sum(c.purchases),
    SortKey.PURCHASES: lambda c: find_workflow(c, Workflow.PURCHASES).last_success or _LONG_AGO,
    SortKey.EVENTS: lambda c: find_workflow(c, Workflow.EVENTS).last_success or _LONG_AGO,
    SortKey.CIRCULATION: lambda c: find_workflow(c, Workflow.CIRCULATION).last_success or _LONG_AGO,
    SortKey.REJECTED: lambda c: c.rejected,
}
