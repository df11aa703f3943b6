"""State of a plan that all its parts share: the files, the stored collections, and the mistakes found."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.collections import list_collections
from accession.configuration.documents import Problem
from accession.configuration.loading import Configuration, Located, Section
from accession.configuration.model import CollectionEntry, SecretReference
from accession.configuration.references import SecretReader
from accession.core.errors import InvalidInput
from accession.db.models import Collection

T = TypeVar("T")


class PlanContext:
    """The configuration and the installation that are compared.

    Attributes:
        session: session with the transaction in which the plan will be executed.
        configuration: contents of the files.
        prune: whether what is absent from the files is removed.
        stored: stored collections by name.
        collections: entries of collections, each with the stored collection that it describes.
        new_names: names in the files of these stored collections, by their present names.
        problems: mistakes in the files.
        kept_secrets: places of secrets that could not be read, so that the stored ones stay.
    """

    def __init__(
        self, session: Session, configuration: Configuration, read_secret: SecretReader, *, prune: bool
    ) -> None:
        self.session = session
        self.configuration = configuration
        self.prune = prune
        self.stored = {collection.name: collection for collection in list_collections(session)}
        self.collections = [
            (located, self._collection_of(located.entry)) for located in configuration.collections.entries
        ]
        self.new_names = {stored.name: located.entry.name for located, stored in self.collections if stored}
        self.problems: list[Problem] = list(configuration.problems)
        self.kept_secrets: list[str] = []
        self._read_secret = read_secret
        self._collection_names = self.names_to_come(
            configuration.collections, self.stored.keys() - self.new_names.keys()
        )

    def _collection_of(self, entry: CollectionEntry) -> Collection | None:
        """Return the stored collection that the entry describes, also if it has its previous name."""
        if entry.name not in self.stored and entry.previous_name is not None:
            return self.stored.get(entry.previous_name)
        return self.stored.get(entry.name)

    def names_to_come(self, section: Section[Any], stored: Iterable[str]) -> set[str]:
        """Return the names that there will be: those in the files, and those stored that are not removed."""
        is_pruned = self.prune and section.is_managed
        return set(section.names) | (set() if is_pruned else set(stored))

    def secret(
        self, located: Located[Any], key: str, reference: SecretReference, noun: str, *, is_stored: bool
    ) -> SecretStr | None:
        """Return a secret; None if there is none: the stored one stays, or without any it is a mistake."""
        try:
            secret = self._read_secret(reference)
        except InvalidInput as error:
            self.problems.append(located.problem(str(error), key))
            return None
        if secret is None and is_stored:
            self.kept_secrets.append(str(reference))
        elif secret is None:
            message = f"There is no {noun}: {reference} does not exist, or may not be read from here."
            self.problems.append(located.problem(message, key))
        return secret

    def check(self, located: Located[Any], key: str, call: Callable[[], T]) -> T | None:
        """Return the result of checking a value; None if it raises `InvalidInput`, which is a mistake."""
        try:
            return call()
        except InvalidInput as error:
            self.problems.append(located.problem(str(error), key))
            return None

    def report_unknown(self, located: Located[Any], key: str, noun: str) -> None:
        """Report that the entry refers to something that does not exist."""
        self.problems.append(located.problem(f"No {noun}: correct the name, or add it.", key))

    def check_collections(self, located: Located[Any], key: str, names: Sequence[str]) -> None:
        """Report those of the names in an entry that no collection will have."""
        for name in names:
            if name not in self._collection_names:
                self.report_unknown(located, key, f'collection is named "{name}"')

    def describe_collections(self, ids: Sequence[int]) -> list[str]:
        """Return the names that stored collections will have, in order; empty for all collections."""
        names = [self.new_names.get(each.name, each.name) for each in self.stored.values() if each.id in ids]
        # They can be of collections that are marked for deletion.
        return sorted(names) or (["none that is left"] if ids else [])
