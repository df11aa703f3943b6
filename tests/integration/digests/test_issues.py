"""Issues: made once for each time of the schedule, with all that has happened since the last one."""

from datetime import date, datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.auth.audit import AuditFilter, audit_entries
from accession.core.errors import InvalidInput, NotFound
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, Digest, DigestIssue, DigestMail
from accession.digests.content import DigestContent, read_content
from accession.digests.issues import make_due_issues, store_manual_issue
from accession.digests.options import Frequency, remove_digest
from accession.runs.ledger import get_or_create_checkpoint
from tests.fixtures.digests import ANN, RECIPIENT, issues_of, make_digest
from tests.fixtures.factories import day, make_collection, run_concurrently
from tests.integration.digests.test_content import purchase

# A Monday.
MONDAY = day(2024, 4, 29, 7)


def import_until(session: Session, collection: Collection, time: datetime) -> None:
    """Let all purchases up to a time be imported."""
    checkpoint = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    checkpoint.finish = checkpoint.confirmed = time
    session.commit()


def make_at(time: datetime) -> int:
    with time_machine.travel(time, tick=False):
        return make_due_issues()


def set_at(at: datetime, session: Session, collection: Collection, **options: object) -> None:
    with time_machine.travel(at, tick=False):
        make_digest(session, collection, **{"time_zone": "UTC", "send_empty": True} | options)


def covered_days(collection: Collection) -> list[tuple[date, date, int]]:
    """Return the days of each issue, and the number of purchased titles."""
    return [(issue.first_day, issue.last_day, issue.purchased) for issue in issues_of(collection)]


def test_weekly_issue_is_made_once(session: Session, collection: Collection) -> None:
    set_at(day(2024, 4, 24), session, collection)
    import_until(session, collection, MONDAY)
    purchase(session, collection, "abc", date(2024, 4, 28))
    assert [make_at(time) for time in (day(2024, 4, 29, 6, 59), MONDAY, MONDAY)] == [0, 1, 0]
    (issue,) = issues_of(collection)
    assert (issue.first_day, issue.last_day) == (date(2024, 4, 22), date(2024, 4, 28))
    assert (issue.purchased, issue.removed, issue.expired) == (1, 0, 0)
    assert [(mail.recipient, mail.state) for mail in issue.mails] == [(RECIPIENT, "pending")]


def test_issue_is_made_once_by_concurrent_tasks(session: Session, collection: Collection) -> None:
    set_at(day(2024, 4, 24), session, collection)
    with time_machine.travel(MONDAY, tick=False):
        run_concurrently(make_due_issues, make_due_issues, make_due_issues)
    assert len(issues_of(collection)) == 1


def test_missed_issues_are_made_up_for_by_one(session: Session, collection: Collection) -> None:
    set_at(day(2024, 4, 1, 12), session, collection, frequency=Frequency.DAILY)
    assert make_at(day(2024, 4, 2, 7)) == 1
    # No process runs for four days.
    assert make_at(day(2024, 4, 6, 12)) == 1
    assert make_at(day(2024, 4, 7, 7)) == 1
    assert [(first.day, last.day) for first, last, _ in covered_days(collection)] == [(1, 1), (2, 5), (6, 6)]


def test_purchases_imported_late_are_in_a_later_issue(session: Session, collection: Collection) -> None:
    set_at(day(2024, 4, 1, 12), session, collection, frequency=Frequency.DAILY)
    for number in (1, 2, 3):
        purchase(session, collection, f"title {number}", date(2024, 4, number))
    for number, imported in ((2, 2), (3, 2), (4, 4)):
        import_until(session, collection, day(2024, 4, imported, 4))
        make_at(day(2024, 4, number, 7))
    assert [purchased for _, _, purchased in covered_days(collection)] == [1, 0, 2]


def test_first_import_of_years_is_not_in_the_digest(session: Session, collection: Collection) -> None:
    """A collection has been added, and its purchases since 2014 are still being imported."""
    set_at(day(2024, 4, 24), session, collection)
    purchase(session, collection, "old", date(2015, 3, 1))
    import_until(session, collection, day(2015, 3, 2))
    assert make_at(MONDAY) == 1
    purchase(session, collection, "new", date(2024, 4, 23))
    import_until(session, collection, day(2024, 5, 6, 4))
    assert make_at(day(2024, 5, 6, 7)) == 1
    assert covered_days(collection) == [
        (date(2024, 4, 22), date(2024, 4, 28), 0),
        (date(2024, 4, 29), date(2024, 5, 5), 1),
    ]


def test_empty_issue_is_skipped_and_its_days_are_covered(session: Session, collection: Collection) -> None:
    set_at(day(2024, 4, 24), session, collection, send_empty=False)
    import_until(session, collection, MONDAY)
    assert make_at(MONDAY) == 0
    purchase(session, collection, "abc", date(2024, 5, 3))
    import_until(session, collection, day(2024, 5, 6, 4))
    assert make_at(day(2024, 5, 6, 7)) == 1
    assert covered_days(collection) == [(date(2024, 4, 29), date(2024, 5, 5), 1)]


def test_failing_issue_does_not_delay_the_others(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_collection(session, "Birch Library")
    for each in (collection, other):
        set_at(day(2024, 4, 24), session, each)

    def read_or_fail(session: Session, each: Collection, *arguments: Any, **options: Any) -> DigestContent:
        if each.id == collection.id:
            raise RuntimeError("a bug")
        return read_content(session, each, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("accession.digests.issues.read_content", read_or_fail)
        assert make_at(MONDAY) == 1
    assert [len(issues_of(each)) for each in (collection, other)] == [0, 1]
    assert make_at(MONDAY) == 1


class _Killed(BaseException):
    """The process is killed."""


def test_crash_before_the_commit_leaves_the_issue_due(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_at(day(2024, 4, 24), session, collection)

    def fail(*_: object, **__: object) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr("accession.digests.issues._store_issue", fail)
        with pytest.raises(_Killed):
            make_at(MONDAY)
    assert issues_of(collection) == []
    assert make_at(MONDAY) == 1
    assert covered_days(collection) == [(date(2024, 4, 22), date(2024, 4, 28), 0)]


@pytest.mark.parametrize(
    ("begin", "times"),
    [
        # In spring 02:30 does not exist: it occurs at 03:00, which is 01:00 UTC.
        (day(2024, 3, 29, 12), [day(2024, 3, 30, 1, 30), day(2024, 3, 31, 1), day(2024, 4, 1, 0, 30)]),
        # In autumn 02:30 occurs at 00:30 UTC, and again at 01:30 UTC.
        (
            day(2024, 10, 25, 12),
            [day(2024, 10, 26, 0, 30), day(2024, 10, 27, 0, 30), day(2024, 10, 28, 1, 30)],
        ),
    ],
)
def test_daily_issue_is_made_once_in_nights_of_time_change(
    session: Session, collection: Collection, begin: datetime, times: list[datetime]
) -> None:
    set_at(begin, session, collection, frequency=Frequency.DAILY, time="02:30", time_zone="Europe/Berlin")
    half_hours = [begin + timedelta(minutes=30 * number) for number in range(24, 24 + 2 * 54)]
    assert [time for time in half_hours if make_at(time)] == times


def test_digest_without_recipients_has_issues_for_its_feed(session: Session, collection: Collection) -> None:
    set_at(day(2024, 4, 24), session, collection, recipients=())
    assert make_at(MONDAY) == 1
    (issue,) = issues_of(collection)
    assert issue.mails == ()


def test_collection_marked_for_deletion_has_no_issue(session: Session, collection: Collection) -> None:
    set_at(day(2024, 4, 24), session, collection)
    mark_for_deletion(collection)
    session.commit()
    assert make_at(MONDAY) == 0


def test_changed_schedule_continues_after_the_last_issue(session: Session, collection: Collection) -> None:
    set_at(day(2024, 4, 24), session, collection)
    make_at(MONDAY)
    set_at(day(2024, 5, 1, 12), session, collection, frequency=Frequency.DAILY)
    assert [make_at(day(2024, 5, 1, 13)), make_at(day(2024, 5, 2, 7))] == [0, 1]
    assert covered_days(collection)[1][:2] == (date(2024, 4, 29), date(2024, 5, 1))


def test_manual_issue_leaves_the_schedule_as_it_is(session: Session, collection: Collection) -> None:
    set_at(day(2024, 4, 24), session, collection)
    before = session.get_one(Digest, collection.id).issued_until
    with time_machine.travel(day(2024, 4, 25, 12), tick=False), transaction() as other:
        issue_id = store_manual_issue(other, ANN, collection, ["bob@library.example"])
    session.expire_all()
    digest = session.get_one(Digest, collection.id)
    assert (digest.issued_until, digest.covered_until) == (before, None)
    issue = session.get_one(DigestIssue, issue_id)
    period = DigestContent.from_json(issue.content).period
    assert (period.first, period.last) == (date(2024, 4, 18), date(2024, 4, 24))
    assert not issue.scheduled
    (entry,) = audit_entries(session, AuditFilter(action="digest.send"), limit=10)
    assert (entry.actor, entry.subject) == ("ann", collection.name)


@pytest.mark.parametrize(
    ("recipients", "message"), [([], "has no recipients"), (["bob"], "The recipient 'bob' is invalid")]
)
def test_manual_issue_without_valid_recipient_is_rejected(
    session: Session, collection: Collection, recipients: list[str], message: str
) -> None:
    make_digest(session, collection, recipients=())
    with pytest.raises(InvalidInput, match=message):
        store_manual_issue(session, ANN, collection, recipients)


def test_removed_digest_leaves_no_issue_and_no_mail(session: Session, collection: Collection) -> None:
    set_at(day(2024, 4, 24), session, collection)
    make_at(MONDAY)
    remove_digest(session, ANN, collection)
    session.commit()
    assert [session.query(model).count() for model in (Digest, DigestIssue, DigestMail)] == [0, 0, 0]
    with pytest.raises(NotFound, match="has no digest"):
        remove_digest(session, ANN, collection)
