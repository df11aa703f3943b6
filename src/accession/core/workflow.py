"""The three workflows."""

from enum import StrEnum


class Workflow(StrEnum):
    """A workflow; the value is its name in the command line, the API and the run ledger."""

    PURCHASES = "purchases"
    EVENTS = "events"
    CIRCULATION = "circulation"

    @property
    def service(self) -> str:
        """Return the service name of the workflow's checkpoint."""
        return _SERVICES[self]


_SERVICES = {
    Workflow.PURCHASES: "Bibliotheca Purchase Record Importer",
    Workflow.EVENTS: "Bibliotheca Event Import",
    Workflow.CIRCULATION: "Bibliotheca Circulation Update",
}
