"""Audit log: who did what, when and from where. Entries are never changed.

An entry is written in the transaction of the change that it describes. An action outside the database, such
as queueing a run, is recorded before it is done, so that none is without its entry.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic_core import to_jsonable_python
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.text import clean_text
from accession.core.workflow import Workflow
from accession.db.models import AuditEntry

ALL_COLLECTIONS = "all collections"
"""Subject of an action on every collection."""

ALL_OPEN_RECORDS = "all open records"
"""Subject of an action on every open rejected record."""

_MAX_TEXT_LENGTH = 200
_ROWS_PER_FETCH = 1000


class ActorKind(StrEnum):
    """Kind of an actor."""

    USER = "user"
    """A person who is logged in to the dashboard."""
    TOKEN = "token"  # noqa: S105
    """A program with an API token."""
    OS_USER = "os user"
    """The operating system's user that ran a command."""
    LOCAL = "local"
    """Anyone on this machine, in the unauthenticated local mode."""
    ANONYMOUS = "anonymous"
    """Somebody who could not log in."""
    SYSTEM = "system"
    """A process of Accession, as it starts."""


class AuditAction(StrEnum):
    """An action, named by the kind of its subject, a dot, and a verb."""

    USER_LOGIN = "user.login"
    USER_LOGIN_FAILED = "user.login_failed"
    USER_LOGOUT = "user.logout"
    USER_ADD = "user.add"
    USER_SET_PASSWORD = "user.set_password"  # noqa: S105
    USER_SET_ROLE = "user.set_role"
    USER_UNLOCK = "user.unlock"
    USER_DEACTIVATE = "user.deactivate"
    USER_ACTIVATE = "user.activate"
    USER_REMOVE = "user.remove"
    TOKEN_ADD = "token.add"  # noqa: S105
    TOKEN_REVOKE = "token.revoke"  # noqa: S105
    COLLECTION_ADD = "collection.add"
    COLLECTION_EDIT = "collection.edit"
    COLLECTION_TEST = "collection.test"
    COLLECTION_REMOVE = "collection.remove"
    COLLECTION_SET_LIMITS = "collection.set_limits"
    COLLECTION_SET_SCHEDULE = "collection.set_schedule"
    COLLECTION_PAUSE = "collection.pause"
    COLLECTION_RESUME = "collection.resume"
    ENCRYPTION_KEY_ROTATE = "encryption_key.rotate"
    RUN_START = "run.start"
    RUN_REIMPORT = "run.reimport"
    RUN_VERIFY = "run.verify"
    RUN_BACKFILL = "run.backfill"
    RUN_RETRY = "run.retry"
    RUN_CANCEL = "run.cancel"
    REJECTED_RECORD_RETRY = "rejected_record.retry"
    REJECTED_RECORD_RESOLVE = "rejected_record.resolve"
    EXPORT_CREATE = "export.create"
    CHANNEL_ADD = "notification_channel.add"
    CHANNEL_EDIT = "notification_channel.edit"
    CHANNEL_TEST = "notification_channel.test"
    CHANNEL_REMOVE = "notification_channel.remove"
    RULE_ADD = "notification_rule.add"
    RULE_EDIT = "notification_rule.edit"
    RULE_REMOVE = "notification_rule.remove"
    WEBHOOK_ADD = "webhook.add"
    WEBHOOK_EDIT = "webhook.edit"
    WEBHOOK_TEST = "webhook.test"
    WEBHOOK_PAUSE = "webhook.pause"
    WEBHOOK_RESUME = "webhook.resume"
    WEBHOOK_REPLAY = "webhook.replay"
    WEBHOOK_SKIP = "webhook.skip"
    WEBHOOK_ROTATE_SECRET = "webhook.rotate_secret"  # noqa: S105
    WEBHOOK_REMOVE = "webhook.remove"
    DIGEST_SET = "digest.set"
    DIGEST_SEND = "digest.send"
    DIGEST_REMOVE = "digest.remove"
    AUDIT_LOG_EXPORT = "audit_log.export"
    DATABASE_BACKUP = "database.backup"
    DATABASE_RESTORE = "database.restore"
    DATABASE_PRUNE = "database.prune"
    DATABASE_REPAIR = "database.repair"
    SETTINGS_CHANGE = "settings.change"
    CONFIGURATION_APPLY = "configuration.apply"


@dataclass(frozen=True)
class Actor:
    """A user, token or program that acts; `origin` is an IP address, `cli`, or `configuration`."""

    kind: ActorKind
    name: str
    origin: str


@dataclass(frozen=True)
class AuditFilter:
    """Conditions of the entries to list; None and "" mean all.

    `action` is an action such as `user.add`, or the part before the dot for all actions on such subjects.
    `until` is exclusive.
    """

    since: datetime | None = None
    until: datetime | None = None
    actor: str = ""
    action: str = ""
    subject: str = ""


@dataclass(frozen=True)
class AuditEntryView:
    """An entry, as listed."""

    id: int
    at: datetime
    actor_kind: str
    actor: str
    origin: str
    action: str
    subject: str
    details: Mapping[str, Any]

    @property
    def description(self) -> str:
        """Return the details as one line of text."""
        return "; ".join(f"{name}: {_describe(value)}" for name, value in self.details.items())


def _describe(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def record(
    session: Session,
    actor: Actor,
    action: AuditAction,
    subject: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Add an entry to the audit log, in the session's transaction.

    Args:
        session: session with the transaction of the change.
        actor: who acts.
        action: what is done.
        subject: name or number of what is changed, such as a collection's name; "" for none.
        details: what else the reader has to know: texts, numbers and lists of them by name; None is left
            out. No secrets, and nothing about patrons.
    """
    session.add(
        AuditEntry(
            at=utc_now(),
            actor_kind=actor.kind.value,
            actor=_shorten(actor.name),
            origin=_shorten(actor.origin),
            action=action.value,
            subject=_shorten(subject),
            details=to_jsonable_python({name: v for name, v in (details or {}).items() if v is not None}),
        )
    )


def record_run_start(
    session: Session,
    actor: Actor,
    workflow: Workflow,
    collection: str,
    *,
    force_reimport: bool = False,
) -> None:
    """Record that somebody starts a workflow for a collection, or for `ALL_COLLECTIONS`."""
    action = AuditAction.RUN_REIMPORT if force_reimport else AuditAction.RUN_START
    record(session, actor, action, collection, {"workflow": workflow})


def audit_entries(
    session: Session, audit_filter: AuditFilter, *, before_id: int | None = None, limit: int
) -> list[AuditEntryView]:
    """Return entries, newest first; `before_id` continues after the entry with this id."""
    query = _select_entries(audit_filter).limit(limit)
    if before_id is not None:
        query = query.where(AuditEntry.id < before_id)
    return [_view(entry) for entry in session.scalars(query)]


def read_audit_log(
    session: Session, audit_filter: AuditFilter, limit: int | None = None
) -> Iterator[AuditEntryView]:
    """Yield all selected entries, or the newest of them, newest first and in bounded memory."""
    query = _select_entries(audit_filter).limit(limit).execution_options(yield_per=_ROWS_PER_FETCH)
    with session.scalars(query) as entries:
        for entry in entries:
            session.expunge(entry)
            yield _view(entry)


def _select_entries(audit_filter: AuditFilter) -> Select[AuditEntry]:
    query = select(AuditEntry).order_by(AuditEntry.id.desc())
    if audit_filter.actor:
        query = query.where(AuditEntry.actor == audit_filter.actor)
    if audit_filter.subject:
        query = query.where(AuditEntry.subject == audit_filter.subject)
    if action := audit_filter.action:
        of_kind = AuditEntry.action.startswith(f"{action}.", autoescape=True)
        query = query.where(or_(AuditEntry.action == action, of_kind))
    if audit_filter.since is not None:
        query = query.where(AuditEntry.at >= audit_filter.since)
    if audit_filter.until is not None:
        query = query.where(AuditEntry.at < audit_filter.until)
    return query


def _view(entry: AuditEntry) -> AuditEntryView:
    return AuditEntryView(
        id=entry.id,
        at=entry.at,
        actor_kind=entry.actor_kind,
        actor=entry.actor,
        origin=entry.origin,
        action=entry.action,
        subject=entry.subject,
        details=entry.details,
    )


def _shorten(text: str) -> str:
    return clean_text(text)[:_MAX_TEXT_LENGTH]
