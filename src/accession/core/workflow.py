"""The workflows."""

from enum import StrEnum


class Workflow(StrEnum):
    """A workflow; the value is its name in the command line, the API and the run ledger."""

    PURCHASES = "purchases"
    EVENTS = "events"
    CIRCULATION = "circulation"
    VERIFICATION = "verification"
    """It is started by hand only. The scheduled purchase import verifies past months as well."""

    BACKFILL = "backfill"
    """It imports the purchases of a range of days again, and is started by hand only."""

    @property
    def service(self) -> str:
        """Return the service name of the workflow's checkpoint."""
        return _SERVICES[self]


SCHEDULED_WORKFLOWS = (Workflow.PURCHASES, Workflow.EVENTS, Workflow.CIRCULATION)
"""The workflows with a schedule; all of them have a checkpoint."""

_SERVICES = {
    Workflow.PURCHASES: "Bibliotheca Purchase Record Importer",
    Workflow.EVENTS: "Bibliotheca Event Import",
    Workflow.CIRCULATION: "Bibliotheca Circulation Update",
    Workflow.VERIFICATION: "Bibliotheca Purchase Verification",
    Workflow.BACKFILL: "Bibliotheca Purchase Backfill",
}
