"""TODO."""

from enum import StrEnum


class Workflow(StrEnum):
    """The workflows, by the word that status and runs show."""

    PURCHASES = "purchases"
    EVENTS = "events"
    CIRCULATION = "circulation"

    @property
    def service(self) -> str:
        """The service name of the workflow's checkpoint."""
        return _SERVICES[self]


_SERVICES = {
    Workflow.PURCHASES: "Bibliotheca Purchase Record Importer",
    Workflow.EVENTS: "Bibliotheca Event Import",
    Workflow.CIRCULATION: "Bibliotheca Circulation Update",
}
