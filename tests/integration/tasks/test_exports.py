"""Scheduled exports."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import time_machine
from celery import Celery
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import SecretStr, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.testing import LogCapture
from structlog.typing import EventDict

from accession.core.cron import Cron
from accession.core.settings import ScheduledExport, Settings, get_settings, use_settings
from accession.db.models import Collection, NotificationEvent
from accession.notifications.kinds import EventKind
from accession.runs.scheduled_exports import scheduled_exports, store_export_error
from tests.fixtures.factories import NOON
from tests.fixtures.purchases import purchase_title

DAY = timedelta(days=1)


@contextmanager
def scheduled(**export: Any) -> Iterator[None]:
    """Configure one scheduled export until the context ends."""
    before = get_settings()
    use_settings(before.model_copy(update={"exports": (ScheduledExport(**export),)}))
    try:
        yield
    finally:
        use_settings(before)


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    """fsspec's file system in memory, empty."""
    store = MemoryFileSystem()
    store.store.clear()
    yield store
    store.store.clear()


@pytest.fixture
def lines(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[EventDict]:
    """The log events of the exports."""
    from accession.tasks import exports

    capture = LogCapture()
    monkeypatch.setattr(exports, "log", structlog.wrap_logger(None, [capture]))
    return capture.entries


def run_on(day: int, name: str) -> None:
    """Run the export at noon of a day."""
    from accession.tasks.exports import run_export

    with time_machine.travel(NOON + day * DAY, tick=False):
        run_export(name)


def test_export_writes_dated_file_and_keeps_the_last_two(
    app: Celery,
    session: Session,
    collection: Collection,
    store: MemoryFileSystem,
    lines: list[EventDict],
) -> None:
    purchase_title(session, collection, "solaris", NOON)
    with scheduled(name="alder", format="marc21", target="memory://exports", keep=2):
        for day in range(3):
            run_on(day, "alder")

    assert store.find("/exports") == [
        "/exports/alder-20240502T120000Z.mrc",
        "/exports/alder-20240503T120000Z.mrc",
    ]
    assert b"solaris" in store.cat("/exports/alder-20240503T120000Z.mrc")
    first = {"export": "alder", "file": "alder-20240501T120000Z.mrc", "titles": 1}
    assert lines[0] == {"event": "export written", "log_level": "info", **first}
    assert len(lines) == 3


def test_export_uses_configured_collections_and_options(
    app: Celery, session: Session, collection: Collection, tmp_path: Path
) -> None:
    purchase_title(session, collection, "solaris", NOON - 2 * DAY)
    purchase_title(session, collection, "eden", NOON)
    with scheduled(
        name="changes",
        format="marcxml",
        target=str(tmp_path),
        collections=["Alder Library"],
        since="1d",
        options={"url_template": "https://ebook.example/{identifier}"},
    ):
        run_on(0, "changes")

    [file] = tmp_path.iterdir()
    assert file.name == "changes-20240501T120000Z.xml"
    assert "https://ebook.example/eden" in file.read_text()
    assert "solaris" not in file.read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "epub"}, 'There is no format "epub"'),
        ({"target": "/missing/folder"}, "cannot be written (No such file or directory)"),
        ({"target": "nowhere://ann:secret@host"}, "Protocol not known: nowhere"),
        ({"collections": ["Dogwood"]}, 'No collection found named "Dogwood".'),
        ({"options": {"colour": "red"}}, "The option colour of a MARC export is invalid"),
        ({"since": "yesterday"}, '"yesterday" is not a valid time'),
    ],
    ids=["format", "folder", "protocol", "collection", "option", "since"],
)
def test_export_error_is_logged_in_one_line(
    changes: dict[str, Any],
    reason: str,
    app: Celery,
    session: Session,
    tmp_path: Path,
    lines: list[EventDict],
) -> None:
    with scheduled(**{"name": "alder", "format": "marc21", "target": str(tmp_path)} | changes):
        run_on(0, "alder")

    [line] = lines
    assert line["event"] == "export failed"
    assert reason in line["reason"]
    assert "secret" not in line["reason"]
    assert list(tmp_path.iterdir()) == []


def test_unconfigured_export_does_nothing(app: Celery, database: None, lines: list[EventDict]) -> None:
    run_on(0, "unconfigured")

    assert [line["event"] for line in lines] == ["export is not configured"]


def test_each_export_is_scheduled_at_its_time(app: Celery) -> None:
    from accession.tasks.app import _configuration

    exports = [
        ScheduledExport(name="daily", format="marc21", target="/exports", at="03:30"),
        ScheduledExport(name="hourly", format="marc21", target="/exports", at="hourly"),
    ]
    settings = Settings(redis_url=SecretStr("redis://127.0.0.1:1/0"), exports=tuple(exports))
    schedule = _configuration(settings)["beat_schedule"]

    daily, hourly = schedule["export-daily"], schedule["export-hourly"]
    assert (daily["task"], daily["args"]) == ("accession.tasks.exports.run_export", ("daily",))
    assert daily["schedule"].cron == Cron("30 3 * * *", "UTC")
    assert hourly["schedule"].cron == Cron("0 * * * *", "UTC")
    app.loader.import_default_modules()
    assert daily["task"] in app.tasks


@pytest.mark.parametrize(
    ("at", "night", "expected"),
    [
        # The clock repeats 02:00 to 03:00 in Berlin.
        ("hourly", "2026-10-24T22:30Z", ["23:00", "00:00", "01:00", "02:00", "03:00"]),
        ("02:30", "2026-10-24T20:00Z", ["00:30"]),
        # It skips the hour.
        ("hourly", "2026-03-28T23:30Z", ["00:00", "01:00", "02:00", "03:00", "04:00"]),
        ("02:30", "2026-03-28T20:00Z", ["01:00"]),
    ],
)
def test_export_keeps_real_time_when_clocks_change(
    app: Celery, at: str, night: str, expected: list[str]
) -> None:
    from accession.tasks.cron_schedule import CronSchedule

    export = ScheduledExport(name="alder", format="csv", target="/exports", at=at)
    original = CronSchedule(export.cron("Europe/Berlin"))
    schedule = pickle.loads(pickle.dumps(original))  # noqa: S301
    schedule.app = app
    assert schedule == original
    now = last_run = datetime.fromisoformat(night)
    runs: list[str] = []
    while len(runs) < len(expected):
        with time_machine.travel(now, tick=False):
            is_due, seconds = schedule.is_due(last_run)
        if is_due:
            last_run = now
            runs.append(f"{now:%H:%M}")
        assert seconds > 0
        now += timedelta(seconds=seconds)
    assert runs == expected
    with time_machine.travel(now, tick=False):
        assert schedule.is_due(last_run).next >= 0


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a/b"},
        {"at": "25:00"},
        {"at": "noon"},
        {"keep": 0},
        {"target": "folder"},
        {"colour": "red"},
    ],
)
def test_invalid_export_setting_is_rejected(change: dict[str, Any]) -> None:
    valid = {"name": "alder", "format": "marc21", "target": "/exports"}
    with pytest.raises(ValidationError):
        ScheduledExport(**valid | change)
    with pytest.raises(ValidationError, match="two exports have the same name"):
        Settings(exports=(ScheduledExport(**valid), ScheduledExport(**valid)))
    assert "/exports" not in repr(ScheduledExport(**valid))


def test_result_of_export_is_stored_for_notifications(
    app: Celery, session: Session, store: MemoryFileSystem, tmp_path: Path, lines: list[EventDict]
) -> None:
    (tmp_path / "file").touch()
    with scheduled(name="alder", format="csv", target=str(tmp_path / "file" / "folder")):
        run_on(0, "alder")
    with scheduled(name="alder", format="csv", target="memory://exports"):
        run_on(1, "alder")
    failed, written = session.scalars(select(NotificationEvent).order_by(NotificationEvent.id))
    assert (failed.key, failed.kind, written.key, written.kind) == (
        "export:alder",
        EventKind.EXPORT_FAILED,
        "export:alder",
        EventKind.RECOVERED,
    )
    assert failed.reason == lines[0]["reason"]


def test_unexpected_error_of_export_is_stored_without_details(
    app: Celery, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text may contain the password of the target."""
    from accession.tasks import exports

    def fail(_: str) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(exports, "find_format", fail)
    with (
        scheduled(name="alder", format="csv", target="memory://exports"),
        pytest.raises(ValueError, match="s"),
    ):
        run_on(0, "alder")
    (event,) = session.scalars(select(NotificationEvent))
    assert event.reason == "An unexpected error occurred (ValueError): see the log of the workers."


def test_last_file_of_export_stays_known_after_a_failure(
    app: Celery, session: Session, collection: Collection, store: MemoryFileSystem, tmp_path: Path
) -> None:
    purchase_title(session, collection, "solaris", NOON)
    with scheduled(name="alder", format="marc21", target="memory://exports", at="06:30"):
        (never,) = scheduled_exports(session)
        run_on(0, "alder")
        (written,) = scheduled_exports(session)
    session.expire_all()
    with scheduled(name="alder", format="marc21", target=str(tmp_path / "missing" / "folder")):
        run_on(1, "alder")
        (failed,) = scheduled_exports(session)

    assert (never.state, never.schedule, never.file) == ("never", "daily at 06:30 (UTC)", None)
    (path,) = store.find("/exports")
    assert written.file == path.rpartition("/")[2]
    assert (written.state, written.titles, written.bytes) == ("succeeded", 1, store.size(path))
    assert (failed.state, failed.ended_at, failed.written_at) == ("failed", NOON + DAY, NOON)
    assert failed.file == written.file
    assert "cannot be written" in str(failed.error)


@pytest.mark.parametrize(
    ("at", "now", "overdue_since"),
    [
        ("13:30", NOON, None),
        ("13:30", NOON + timedelta(hours=2, minutes=29), None),
        ("13:30", NOON + timedelta(hours=2, minutes=30), NOON + timedelta(hours=1, minutes=30)),
        ("13:30", NOON + 3 * DAY, NOON + timedelta(hours=1, minutes=30)),
        ("11:30", NOON + timedelta(hours=23), None),
        ("hourly", NOON + timedelta(hours=1, minutes=59), None),
        ("hourly", NOON + timedelta(hours=2), NOON + timedelta(hours=1)),
    ],
)
def test_export_is_overdue_an_hour_after_it_was_due(
    session: Session, at: str, now: datetime, overdue_since: datetime | None
) -> None:
    with time_machine.travel(NOON, tick=False):
        store_export_error(session, "alder", "The disk is full: free some space.")
    configured = scheduled(name="alder", format="marc21", target="/exports", at=at)
    with configured, time_machine.travel(now, tick=False):
        (export,) = scheduled_exports(session)
    assert export.overdue_since == overdue_since
    assert str(export.problem).startswith("The disk is full: free some space.")
    assert ("It was due on 2024-05-01 at 13:" in str(export.problem)) == (overdue_since is not None)
