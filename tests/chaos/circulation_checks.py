"""Checks that the stored events and copy counts of a simulation are the vendor's."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select

from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import CirculationEvent, Collection, Identifier, LicensePool
from tests.chaos.invariants import InvariantViolation
from tests.chaos.unreliable_vendor import Event, UnreliableVendor
from tests.fixtures.stored import checkpoint_finish, copy_counts

# An empty body is believed if no event of a day before it is known, nor appears in the day after it.
_LOOK_BACK = timedelta(days=1)


class EventChecks:
    """Checks of the events during and after the imports.

    Attributes:
        believed: the events that are lost because an empty body was believed.
    """

    def __init__(self, collection: Collection, vendor: UnreliableVendor) -> None:
        self._collection = collection
        self._vendor = vendor
        self._hidden: set[Event] = set()
        self._stored: Sequence[Event] = ()
        self.believed: set[Event] = set()

    def check_checkpoint(self) -> None:
        """Check that each event before the checkpoint is stored, if it was published in time.

        It may be missing only if an empty body hid it when no event of the day before was stored. It must be
        found together with the next event, if that follows within a day.

        Raises:
            InvariantViolation: an event is missing, or stored although the vendor has not published it.
        """
        checkpoint = checkpoint_finish(self._collection.id, Workflow.EVENTS)
        assert checkpoint is not None
        self._note_hidden_events()
        self._stored = _stored_events()
        published, stored = self._vendor.published, {*self._stored}
        if len(self._stored) > len(stored) or not stored <= published:
            raise InvariantViolation(f"events are stored twice, or in excess: {stored - published}")
        for event in sorted(published - stored - self._vendor.published_late - self.believed):
            believed_at = event.moment + _LOOK_BACK
            if event.moment >= checkpoint:
                continue
            if event not in self._hidden or any(event.moment <= e.moment < believed_at for e in stored):
                raise InvariantViolation(f"the checkpoint of events is {checkpoint}, but {event} is missing")
            if believed_at < checkpoint:
                self.believed.add(event)

    def _note_hidden_events(self) -> None:
        """Note the events for which empty bodies were sent while no event of a day before was stored."""
        for start, end in self._vendor.blank_event_windows:
            if not any(start - _LOOK_BACK <= event.moment < end for event in self._stored):
                self._hidden |= {event for event in self._vendor.published if start <= event.moment < end}
        self._vendor.blank_event_windows.clear()


def check_copies(vendor: UnreliableVendor) -> None:
    """Check that the stored copy counts of all titles are the vendor's.

    Raises:
        InvariantViolation: the counts of a title differ.
    """
    stored = copy_counts()
    if differing := {name for name, counts in stored.items() if counts != vendor.copies[name]}:
        raise InvariantViolation(
            f"copy counts differ: {[(name, stored[name], vendor.copies[name]) for name in sorted(differing)]}"
        )


def _stored_events() -> Sequence[Event]:
    columns = (
        CirculationEvent.event_id,
        CirculationEvent.event_type,
        Identifier.identifier,
        CirculationEvent.occurred_at,
    )
    query = (
        select(*columns)
        .join(LicensePool, CirculationEvent.license_pool_id == LicensePool.id)
        .join(Identifier, LicensePool.identifier_id == Identifier.id)
    )
    with transaction() as session:
        return [Event._make(row) for row in session.execute(query)]
