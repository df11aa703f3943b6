"""Compare a configuration with the installation: the changes that would make them equal."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy.orm import Session

from accession.configuration.changes import Change
from accession.configuration.collection_changes import plan_collections, plan_removed_collections
from accession.configuration.digest_changes import plan_digests, plan_removed_digests
from accession.configuration.documents import InvalidConfiguration
from accession.configuration.loading import Configuration
from accession.configuration.notification_changes import (
    plan_channels,
    plan_removed_notifications,
    plan_rules,
)
from accession.configuration.plan_context import PlanContext
from accession.configuration.references import SecretReader
from accession.configuration.webhook_changes import plan_removed_webhooks, plan_webhooks

# In the order in which the changes are made: what others refer to comes first, and is removed last.
_PARTS = (plan_collections, plan_channels, plan_rules, plan_webhooks, plan_digests)
_REMOVALS = (
    plan_removed_notifications,
    plan_removed_webhooks,
    plan_removed_digests,
    plan_removed_collections,
)


@dataclass(frozen=True)
class Plan:
    """The changes that make the installation equal to the files, in their order.

    `notes` say what stays as it is although the files differ.
    """

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return a text that differs between plans with different changes."""
        return sha256("\n".join(map(str, self.changes)).encode()).hexdigest()


def make_plan(
    session: Session, configuration: Configuration, read_secret: SecretReader, *, prune: bool
) -> Plan:
    """Compare a configuration with the installation. Nothing is written.

    Args:
        session: session with the transaction in which the plan will be executed.
        configuration: contents of the files.
        read_secret: reads the secrets that the files refer to.
        prune: whether what is absent from the files is removed, in the lists that the files have.

    Raises:
        InvalidConfiguration: the files have mistakes; all of them are listed.
        UserError: a stored secret cannot be decrypted.
    """
    context = PlanContext(session, configuration, read_secret, prune=prune)
    planned = [change for plan_part in _PARTS for change in plan_part(context)]
    removals = [change for plan_removals in _REMOVALS for change in plan_removals(context)]
    if context.problems:
        raise InvalidConfiguration(context.problems)
    if prune:
        return Plan((*planned, *removals), tuple(_kept_secrets(context)))
    notes = [f"Not in the files, and kept without pruning: {each}." for each in removals]
    return Plan(tuple(planned), (*notes, *_kept_secrets(context)))


def _kept_secrets(context: PlanContext) -> Iterator[str]:
    if context.kept_secrets:
        places = ", ".join(dict.fromkeys(context.kept_secrets))
        yield f"Stored secrets are kept, because these are missing or may not be read from here: {places}."
