"""Contributors of a title, grouped into the fields that show them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from accession.core.vocabulary import ContributorRole

_FIELDS: Mapping[str, str] = {
    ContributorRole.AUTHOR: "authors",
    ContributorRole.NARRATOR: "narrators",
    ContributorRole.EDITOR: "editors",
    ContributorRole.TRANSLATOR: "translators",
    ContributorRole.ILLUSTRATOR: "illustrators",
}
_OTHERS = "other_contributors"
CONTRIBUTOR_FIELDS = (*_FIELDS.values(), _OTHERS)
"""Names of the fields: one for each of the commonest roles, and one for all others."""


@dataclass(frozen=True)
class OtherContributor:
    """A contributor in a role without a field of its own."""

    name: str
    role: str

    def __str__(self) -> str:
        """Return the name with the role, such as "Jane Doe (letterer)"."""
        return f"{self.name} ({self.role})"


def group_by_field(people: Iterable[tuple[str, str]]) -> dict[str, tuple[Any, ...]]:
    """Return contributors by field, from pairs of role and name; a name is in each field once.

    The values are names, those of `other_contributors` are `OtherContributor`.
    """
    groups: dict[str, dict[Any, None]] = {name: {} for name in CONTRIBUTOR_FIELDS}
    for role, name in people:
        if role in _FIELDS:
            groups[_FIELDS[role]][name] = None
        else:
            groups[_OTHERS][OtherContributor(name, role)] = None
    return {field: tuple(values) for field, values in groups.items()}


def list_contributors(groups: Mapping[str, Iterable[Any]]) -> list[tuple[ContributorRole, str]]:
    """Return pairs of role and name from contributors by field, in the order of the roles."""
    pairs = [(ContributorRole(role), name) for role, field in _FIELDS.items() for name in groups[field]]
    pairs += [(ContributorRole(other.role), other.name) for other in groups[_OTHERS]]
    order = list(ContributorRole)
    return sorted(pairs, key=lambda pair: order.index(pair[0]))
