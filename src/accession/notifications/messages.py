"""Texts of notifications: what failed, why, since when, and what to do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from accession.core.clock import parse_datetime
from accession.core.public_url import public_url
from accession.core.sanitize import sanitize
from accession.notifications.kinds import SEVERITIES, EventKind, Severity

_MAX_LISTED = 20
_MAX_TEXT_LENGTH = 500

TEST_KIND = "test"
"""Kind of a message that a person sends to test a channel."""

_TITLES: Mapping[EventKind, str] = {
    EventKind.RUN_FAILED: "Import failed",
    EventKind.CREDENTIALS_REJECTED: "Credentials rejected",
    EventKind.NO_SUCCESS: "No successful import",
    EventKind.REJECTED_RECORDS: "Many rejected records",
    EventKind.PURCHASES_DIFFER: "Purchases differ",
    EventKind.EXPORT_FAILED: "Export failed",
    EventKind.WEBHOOK_PAUSED: "Webhook paused",
    EventKind.DIGEST_FAILED: "Digest not delivered",
    EventKind.PROCESS_MISSING: "Process missing",
    EventKind.DISK_NEARLY_FULL: "Disk nearly full",
    EventKind.STILL_FAILING: "Still failing",
    EventKind.RECOVERED: "Recovered",
}
_NOUNS: Mapping[EventKind, str] = {
    EventKind.RUN_FAILED: "imports",
    EventKind.CREDENTIALS_REJECTED: "imports",
    EventKind.NO_SUCCESS: "imports",
    EventKind.REJECTED_RECORDS: "collections",
    EventKind.PURCHASES_DIFFER: "collections",
    EventKind.EXPORT_FAILED: "exports",
    EventKind.WEBHOOK_PAUSED: "webhooks",
}
_ADVICE: Mapping[EventKind, str] = {
    EventKind.RUN_FAILED: "Read the reason, and start the run again when its cause is gone. The next "
    "scheduled run resumes from the checkpoint in any case.",
    EventKind.CREDENTIALS_REJECTED: "Check account id and account key of the collection with the vendor, and "
    "correct them in Accession.",
    EventKind.NO_SUCCESS: "Check that a worker and the scheduler are running, and the latest runs.",
    EventKind.REJECTED_RECORDS: "Look at the reasons in the list of rejected records; retry or resolve them.",
    EventKind.PURCHASES_DIFFER: "Look at the findings of the collection's verification, and at its latest "
    "purchase runs. Repair the differences with `accession verify --repair`.",
    EventKind.EXPORT_FAILED: "Check the export's target and options; the earlier files are unchanged.",
    EventKind.WEBHOOK_PAUSED: "Repair the receiver, then resume the webhook. Its events wait until then.",
    EventKind.DIGEST_FAILED: "Check the mail server in ACCESSION_SMTP_URL, and the recipient's address on "
    "the page of the collection.",
    EventKind.PROCESS_MISSING: "Start it, and read its log. Imports wait until then, and nothing is lost.",
    EventKind.DISK_NEARLY_FULL: "Free some space, or enlarge the disk. When it is full, the database stops.",
}
_RECOVERIES: Mapping[EventKind, str] = {
    EventKind.RUN_FAILED: "A run has succeeded.",
    EventKind.CREDENTIALS_REJECTED: "A run has succeeded.",
    EventKind.NO_SUCCESS: "A run has succeeded.",
    EventKind.REJECTED_RECORDS: "The number of open rejected records is no longer above the threshold.",
    EventKind.PURCHASES_DIFFER: "The differences have been repaired.",
    EventKind.EXPORT_FAILED: "The export has been written.",
    EventKind.WEBHOOK_PAUSED: "It has been resumed.",
    EventKind.DIGEST_FAILED: "A digest has been delivered, or the recipient was removed.",
    EventKind.PROCESS_MISSING: "It is running again.",
    EventKind.DISK_NEARLY_FULL: "There is enough free space again.",
}
_PATHS: Mapping[EventKind, str] = {
    EventKind.REJECTED_RECORDS: "/rejected-records",
    EventKind.EXPORT_FAILED: "/exports",
    EventKind.WEBHOOK_PAUSED: "/webhooks",
}


@dataclass(frozen=True)
class Message:
    """A message as it is sent. `type` selects the colour or icon that some services show."""

    title: str
    body: str
    type: Literal["info", "success", "warning", "failure"]


@dataclass(frozen=True)
class Item:
    """One problem in a message.

    `kind` is that of the problem, also in a message that it is still there, or over. `since` is its start
    (UTC).
    """

    kind: EventKind
    subject: str
    reason: str
    since: datetime
    run_id: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the item as it is stored."""
        return {
            "kind": self.kind.value,
            "subject": self.subject,
            "reason": self.reason,
            "since": self.since.isoformat(),
            "run_id": self.run_id,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Item":
        """Return the item that was stored."""
        return cls(
            EventKind(stored["kind"]),
            stored["subject"],
            stored["reason"],
            parse_datetime(stored["since"]),
            stored["run_id"],
        )


def write_message(kind: str, items: Sequence[Item], cause: str = "") -> Message:
    """Return the message about items of one kind; `cause` is the reason that they have in common, or ""."""
    if kind == TEST_KIND:
        return Message(
            "Accession: Test", "This is a test of a notification channel of Accession. It works.", "info"
        )
    event = EventKind(kind)
    lines = _single(event, items[0]) if len(items) == 1 else _several(event, items, cause)
    title = f"Accession: {_TITLES[event]}: {_title_subject(items)}"
    return Message(_clean(title), "\n".join(lines), _type(event, items))


def _type(event: EventKind, items: Sequence[Item]) -> Literal["success", "warning", "failure"]:
    if event is EventKind.RECOVERED:
        return "success"
    is_warning = all(SEVERITIES[item.kind] is Severity.WARNING for item in items)
    return "warning" if is_warning else "failure"


def _title_subject(items: Sequence[Item]) -> str:
    if len(items) == 1:
        return items[0].subject
    kinds = {_NOUNS.get(item.kind, "problems") for item in items}
    return f"{len(items)} {kinds.pop() if len(kinds) == 1 else 'problems'}"


def _single(event: EventKind, item: Item) -> Iterator[str]:
    if event is EventKind.RECOVERED:
        yield f"Recovered: {_clean(item.subject)}"
        yield _RECOVERIES[item.kind]
        yield f"It began: {_format(item.since)}"
    else:
        yield f"{_TITLES[item.kind]}: {_clean(item.subject)}"
        yield f"Reason: {_clean(item.reason)}"
        yield f"Since: {_format(item.since)}"
        yield f"What to do: {_ADVICE[item.kind]}"
    if (url := _url(item)) is not None:
        yield f"Details: {url}"


def _several(event: EventKind, items: Sequence[Item], cause: str) -> Iterator[str]:
    if event is EventKind.RECOVERED:
        yield f"These {len(items)} problems are over:"
    elif cause:
        yield f"Reason: {_clean(cause)}"
    yield f"Since: {_format(min(item.since for item in items))}"
    if event is not EventKind.RECOVERED:
        yield from (f"What to do: {advice}" for advice in dict.fromkeys(_ADVICE[item.kind] for item in items))
    yield ""
    for item in items[:_MAX_LISTED]:
        reason = f": {_clean(item.reason)}" if event is not EventKind.RECOVERED and not cause else ""
        url = _url(item)
        yield f"- {_clean(item.subject)}{reason}{f' ({url})' if url else ''}"
    if len(items) > _MAX_LISTED:
        yield f"and {len(items) - _MAX_LISTED} more."


def _url(item: Item) -> str | None:
    """Return the URL of the page with details, None if the URL of the dashboard is not known."""
    path = f"/runs/{item.run_id}" if item.run_id is not None else _PATHS.get(item.kind, "/")
    return public_url(path)


def _format(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _clean(text: str) -> str:
    """Return text, which may be the vendor's, on one line and not too long."""
    line = sanitize(text)
    return line if len(line) <= _MAX_TEXT_LENGTH else line[: _MAX_TEXT_LENGTH - 1] + "…"
