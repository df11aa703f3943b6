"""A change of an installation, as a plan lists it and as it is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy.orm import Session

from accession.auth.audit import Actor
from accession.core.sanitize import sanitize

Effect = Callable[[], None]
"""The part of a change outside the database, which follows the commit."""


class Action(StrEnum):
    """Kind of a change: its subject is added, changed or removed."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


@dataclass(frozen=True)
class Change:
    """One difference between the files and the installation.

    Attributes:
        action: whether the subject is added, changed or removed.
        description: the change, such as `Rename collection "Alder" to "Alder Library"`.
        details: new values by name; changed ones as "old → new", and secrets as "replaced".
        execute: makes the change, in a session's transaction.
    """

    action: Action
    description: str
    details: Mapping[str, str]
    execute: Callable[[Session, Actor], Effect | None] = field(repr=False, compare=False)

    def __str__(self) -> str:
        """Return the change on one line."""
        details = "; ".join(f"{name}: {value}" for name, value in self.details.items())
        return sanitize(f"{self.description} ({details})" if details else self.description)


def describe_differences(
    old: Mapping[str, object], new: Mapping[str, object], *, none: str = "all"
) -> dict[str, str]:
    """Return the values that differ as "old → new"; None, "" and empty lists are called `none`."""

    def describe(value: object) -> str:
        if isinstance(value, list | tuple):
            return ", ".join(map(str, value)) or none
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, float):
            return f"{value:g}"
        return none if value in (None, "") else str(value)

    return {
        name: f"{describe(old[name])} → {describe(value)}"
        for name, value in new.items()
        if old[name] != value
    }
