"""Options of the digest of a collection: when it is made, for whom, and with what."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Self

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, AuditAction, record
from accession.core.clock import utc_now
from accession.core.cron import Cron
from accession.core.email_address import is_email_address
from accession.core.errors import InvalidInput, NotFound
from accession.core.settings import get_settings
from accession.db.models import Collection, Digest, DigestIssue, DigestMail, MailState
from accession.notifications.events import record_digest_mail

MAX_RECIPIENTS = 50
MAX_TITLES = 200

_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


class Frequency(StrEnum):
    """Interval in which issues are made."""

    DAILY = "daily"
    WEEKLY = "weekly"

    @property
    def days(self) -> int:
        """Return the number of days that an issue covers as a rule."""
        return {Frequency.DAILY: 1, Frequency.WEEKLY: 7}[self]


class Weekday(StrEnum):
    """Day of a weekly digest."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


@dataclass(frozen=True)
class DigestOptions:
    """Options of a digest.

    Attributes:
        frequency: Daily or weekly.
        weekday: Day of a weekly digest.
        time: Local time at which an issue is made, such as "07:00".
        time_zone: Time zone of the time; "" for that of the settings.
        recipients: Email addresses. Without any, the digest is only a feed.
        send_empty: Make an issue also if no title was purchased, removed or expired.
        max_titles: Maximum number of titles that a section lists.
    """

    frequency: Frequency = Frequency.WEEKLY
    weekday: Weekday = Weekday.MONDAY
    time: str = "07:00"
    time_zone: str = ""
    recipients: tuple[str, ...] = ()
    send_empty: bool = False
    max_titles: int = 20

    @property
    def cron(self) -> Cron:
        """Return when issues are made.

        Raises:
            InvalidInput: the time or the time zone is invalid.
        """
        if _TIME.fullmatch(self.time) is None:
            raise InvalidInput(f"The time {self.time[:20]!r} of the digest is invalid: enter it as 07:00.")
        hour, minute = map(int, self.time.split(":"))
        day = self.weekday[:3].upper() if self.frequency is Frequency.WEEKLY else "*"
        return Cron(f"{minute} {hour} * * {day}", self.time_zone or get_settings().time_zone)

    def checked(self) -> Self:
        """Return the options with the name of their time zone, and without repeated recipients.

        Raises:
            InvalidInput: an option is invalid.
        """
        recipients = tuple(dict.fromkeys(address.strip() for address in self.recipients if address.strip()))
        for address in recipients:
            if not is_email_address(address):
                raise InvalidInput(
                    f"The recipient {address[:100]!r} is invalid: enter an address as name@library.example."
                )
        if len(recipients) > MAX_RECIPIENTS:
            raise InvalidInput(
                f"The digest has {len(recipients)} recipients: enter at most {MAX_RECIPIENTS}, "
                "or the address of a mailing list."
            )
        if not 1 <= self.max_titles <= MAX_TITLES:
            raise InvalidInput(
                f"The digest cannot list {self.max_titles} titles per section: enter 1 to {MAX_TITLES}."
            )
        return replace(self, recipients=recipients, time_zone=self.cron.time_zone)


def options_of(row: Digest) -> DigestOptions:
    """Return the stored options."""
    return DigestOptions(
        frequency=Frequency(row.frequency),
        weekday=Weekday(row.weekday),
        time=row.time,
        time_zone=row.time_zone,
        recipients=tuple(row.recipients),
        send_empty=row.send_empty,
        max_titles=row.max_titles,
    )


def find_options(session: Session, collection: Collection) -> DigestOptions | None:
    """Return the options of the collection's digest, None if it has none."""
    row = session.get(Digest, collection.id)
    return None if row is None else options_of(row)


def get_options(session: Session, collection: Collection) -> DigestOptions:
    """Return the options of the collection's digest.

    Raises:
        NotFound: it has no digest.
    """
    options = find_options(session, collection)
    if options is None:
        raise digest_not_found(collection)
    return options


def digest_not_found(collection: Collection) -> NotFound:
    """Return the error for a collection without a digest."""
    return NotFound(
        f'The collection "{collection.name}" has no digest: '
        f'set one with `accession digests set "{collection.name}"`.'
    )


def set_digest(
    session: Session, actor: Actor, collection: Collection, options: DigestOptions
) -> DigestOptions:
    """Set the digest of a collection, and record that in the audit log; return the options as stored.

    The next issue is made after now. It covers the days since the last one.

    Raises:
        InvalidInput: an option is invalid.
    """
    checked = options.checked()
    values = {**asdict(checked), "recipients": list(checked.recipients), "issued_until": utc_now()}
    former = find_options(session, collection)
    statement = insert(Digest).values(collection_id=collection.id, created_at=utc_now(), **values)
    session.execute(statement.on_conflict_do_update(index_elements=[Digest.collection_id], set_=values))
    session.expire_all()
    removed = set(former.recipients if former else ()) - set(checked.recipients)
    _forget_recipients(session, collection, removed)
    record(session, actor, AuditAction.DIGEST_SET, collection.name, _audit_details(checked))
    return checked


def _audit_details(options: DigestOptions) -> Mapping[str, object]:
    names = [field.name for field in fields(DigestOptions)]
    if options.frequency is Frequency.DAILY:
        names.remove("weekday")
    return {name: getattr(options, name) for name in names}


def remove_digest(session: Session, actor: Actor, collection: Collection) -> None:
    """Remove the digest of a collection with its issues, and record that in the audit log.

    Raises:
        NotFound: it has no digest.
    """
    options = get_options(session, collection)
    _forget_recipients(session, collection, options.recipients)
    for model in (DigestIssue, Digest):
        session.execute(delete(model).where(model.collection_id == collection.id))
    record(session, actor, AuditAction.DIGEST_REMOVE, collection.name)


def _forget_recipients(session: Session, collection: Collection, recipients: Iterable[str]) -> None:
    """Delete the mails to former recipients that have not been sent, and close their incidents."""
    for recipient in recipients:
        issues = select(DigestIssue.id).where(DigestIssue.collection_id == collection.id)
        session.execute(
            delete(DigestMail).where(
                DigestMail.issue_id.in_(issues),
                DigestMail.recipient == recipient,
                DigestMail.state == MailState.PENDING,
            )
        )
        record_digest_mail(session, collection, recipient)
