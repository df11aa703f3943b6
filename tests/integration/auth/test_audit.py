"""The audit log: what is recorded and found, and that the database refuses to change it."""

from datetime import timedelta

import pytest
import time_machine
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from accession.auth.audit import (
    Actor,
    ActorKind,
    AuditAction,
    AuditEntryView,
    AuditFilter,
    audit_entries,
    read_audit_log,
    record,
)
from accession.core.clock import utc_now

ANN = Actor(ActorKind.USER, "ann", "192.0.2.1")
SCRIPT = Actor(ActorKind.TOKEN, "script", "192.0.2.2")


def record_examples(session: Session) -> None:
    record(session, ANN, AuditAction.USER_ADD, "ben", {"role": "viewer"})
    record(session, ANN, AuditAction.USER_REMOVE, "ben")
    record(session, SCRIPT, AuditAction.RUN_START, "Alder Library")
    session.commit()


def entries(session: Session) -> list[AuditEntryView]:
    return list(read_audit_log(session, AuditFilter()))


def select_actions(session: Session, audit_filter: AuditFilter) -> list[str]:
    listed = [entry.action for entry in audit_entries(session, audit_filter, limit=10)]
    assert listed == [entry.action for entry in read_audit_log(session, audit_filter)]
    return listed


def test_recorded_action_is_listed_with_actor_and_origin(session: Session) -> None:
    record(session, ANN, AuditAction.USER_ADD, "ben", {"role": "viewer"})
    session.commit()

    (entry,) = entries(session)

    assert (entry.actor_kind, entry.actor, entry.origin) == ("user", "ann", "192.0.2.1")
    assert (entry.action, entry.subject, entry.details) == ("user.add", "ben", {"role": "viewer"})
    assert timedelta(0) <= utc_now() - entry.at < timedelta(minutes=5)


def test_rolled_back_change_leaves_no_entry(session: Session) -> None:
    record(session, ANN, AuditAction.USER_ADD, "ben")
    session.rollback()

    assert entries(session) == []


def test_secret_in_details_is_stored_masked(session: Session) -> None:
    record(session, ANN, AuditAction.COLLECTION_EDIT, "Alder", {"account_key": SecretStr("hunter2")})
    session.commit()

    (entry,) = entries(session)

    assert "hunter2" not in str(entry.details)


@pytest.mark.parametrize(
    ("audit_filter", "actions"),
    [
        (AuditFilter(), ["run.start", "user.remove", "user.add"]),
        (AuditFilter(actor="script"), ["run.start"]),
        (AuditFilter(action="user.add"), ["user.add"]),
        (AuditFilter(action="user"), ["user.remove", "user.add"]),
        (AuditFilter(action="us"), []),
        (AuditFilter(action="user%"), []),
        (AuditFilter(subject="ben"), ["user.remove", "user.add"]),
        (AuditFilter(actor="ann", subject="Alder Library"), []),
    ],
    ids=str,
)
def test_filter_selects_entries(session: Session, audit_filter: AuditFilter, actions: list[str]) -> None:
    record_examples(session)

    assert select_actions(session, audit_filter) == actions


def test_filter_by_time_includes_since_and_excludes_until(session: Session) -> None:
    start = utc_now().replace(microsecond=0)
    for hours, action in enumerate(
        [AuditAction.USER_ADD, AuditAction.USER_SET_ROLE, AuditAction.USER_REMOVE]
    ):
        with time_machine.travel(start + timedelta(hours=hours), tick=False):
            record(session, ANN, action, "ben")
    session.commit()

    selected = AuditFilter(since=start + timedelta(hours=1), until=start + timedelta(hours=2))

    assert select_actions(session, selected) == ["user.set_role"]


def test_entries_are_listed_in_pages(session: Session) -> None:
    record_examples(session)

    first, second = audit_entries(session, AuditFilter(), limit=2)
    (third,) = audit_entries(session, AuditFilter(), before_id=second.id, limit=2)

    assert first.id > second.id > third.id


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_log SET actor = 'ben'", "DELETE FROM audit_log", "TRUNCATE audit_log"],
    ids=["update", "delete", "truncate"],
)
def test_database_refuses_to_change_the_audit_log(session: Session, statement: str) -> None:
    record_examples(session)

    with pytest.raises(IntegrityError, match="the audit log is append-only"):
        session.execute(text(statement))

    session.rollback()
    assert len(entries(session)) == 3


@pytest.mark.parametrize(("days", "is_deleted"), [(89, False), (91, True)])
def test_entry_can_be_deleted_after_90_days(session: Session, days: int, is_deleted: bool) -> None:
    with time_machine.travel(utc_now() - timedelta(days=days), tick=False):
        record(session, ANN, AuditAction.USER_ADD, "ben")
    session.commit()

    try:
        session.execute(text("DELETE FROM audit_log"))
        session.commit()
    except IntegrityError:
        session.rollback()

    assert (entries(session) == []) is is_deleted
