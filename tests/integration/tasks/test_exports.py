"""Exports on a schedule."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import time_machine
from celery import Celery
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import SecretStr, ValidationError
from sqlalchemy.orm import Session
from structlog.testing import LogCapture
from structlog.typing import EventDict

from accession.core.settings import ScheduledExport, Settings, get_settings, use_settings
from accession.db.models import Collection
from tests.fixtures.factories import NOON
from tests.integration.exports.test_marc_files import DAY, buy


@contextmanager
def scheduled(**export: Any) -> Iterator[None]:
    """For a while there is this export in the settings."""
    before = get_settings()
    use_settings(before.model_copy(update={"exports": (ScheduledExport(**export),)}))
    try:
        yield
    finally:
        use_settings(before)


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    """fsspec's store in memory, with nothing in it."""
    store = MemoryFileSystem()
    store.store.clear()
    yield store
    store.store.clear()


@pytest.fixture
def lines(app: Celery, monkeypatch: pytest.MonkeyPatch) -> list[EventDict]:
    """What the exports log."""
    from accession.tasks import exports

    capture = LogCapture()
    monkeypatch.setattr(exports, "log", structlog.wrap_logger(None, [capture]))
    return capture.entries


def run_on(day: int, name: str) -> None:
    """Run the export on a day, at noon."""
    from accession.tasks.exports import run_export

    with time_machine.travel(NOON + day * DAY, tick=False):
        run_export(name)


def test_every_run_writes_a_file_of_its_moment_and_the_last_are_kept(
    app: Celery,
    session: Session,
    collection: Collection,
    store: MemoryFileSystem,
    lines: list[EventDict],
) -> None:
    buy(session, collection, "solaris", NOON)
    with scheduled(name="alder", format="marc21", target="memory://exports", keep=2):
        for day in range(3):
            run_on(day, "alder")

    assert store.find("/exports") == [
        "/exports/alder-20240502T120000Z.mrc",
        "/exports/alder-20240503T120000Z.mrc",
    ]
    assert b"solaris" in store.cat("/exports/alder-20240503T120000Z.mrc")
    first = {"export": "alder", "file": "alder-20240501T120000Z.mrc", "titles": 1}
    assert lines[0] == {"event": "the export is written", "log_level": "info", **first}
    assert len(lines) == 3


def test_a_run_takes_the_collections_the_changes_and_the_options_that_are_set(
    app: Celery, session: Session, collection: Collection, tmp_path: Path
) -> None:
    buy(session, collection, "solaris", NOON - 2 * DAY)
    buy(session, collection, "eden", NOON)
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
    ("changes", "said"),
    [
        ({"format": "epub"}, 'There is no format "epub"'),
        ({"target": "/missing/folder"}, "cannot be written (No such file or directory)"),
        ({"target": "nowhere://ann:secret@host"}, "Protocol not known: nowhere"),
        ({"collections": ["Dogwood"]}, 'No collection found named "Dogwood".'),
        ({"options": {"colour": "red"}}, "The option colour of a MARC export cannot be used"),
        ({"since": "yesterday"}, '"yesterday" is no moment'),
    ],
)
def test_what_a_person_has_to_put_right_is_one_line_in_the_log(
    changes: dict[str, Any],
    said: str,
    app: Celery,
    session: Session,
    tmp_path: Path,
    lines: list[EventDict],
) -> None:
    with scheduled(**{"name": "alder", "format": "marc21", "target": str(tmp_path)} | changes):
        run_on(0, "alder")

    [line] = lines
    assert line["event"] == "the export has failed"
    assert said in line["reason"]
    assert "secret" not in line["reason"]
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_no_longer_in_the_settings_does_nothing(
    app: Celery, database: None, lines: list[EventDict]
) -> None:
    run_on(0, "forgotten")

    assert [line["event"] for line in lines] == ["an export is not in the settings any more"]


def test_the_schedule_has_each_export_at_its_time(app: Celery) -> None:
    from accession.tasks.app import _configuration

    exports = [
        ScheduledExport(name="daily", format="marc21", target="/exports", at="03:30"),
        ScheduledExport(name="hourly", format="marc21", target="/exports", at="hourly"),
    ]
    settings = Settings(redis_url=SecretStr("redis://127.0.0.1:1/0"), exports=tuple(exports))
    schedule = _configuration(settings)["beat_schedule"]

    daily, hourly = schedule["export-daily"], schedule["export-hourly"]
    assert (daily["task"], daily["args"]) == ("accession.tasks.exports.run_export", ("daily",))
    assert (daily["schedule"].hour, daily["schedule"].minute) == ({3}, {30})
    assert (len(hourly["schedule"].hour), hourly["schedule"].minute) == (24, {0})
    app.loader.import_default_modules()
    assert daily["task"] in app.tasks


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a/b"},
        {"at": "25:00"},
        {"at": "noon"},
        {"keep": 0},
        {"target": "folder"},
        {"colour": "red"},
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    good = {"name": "alder", "format": "marc21", "target": "/exports"}
    with pytest.raises(ValidationError):
        ScheduledExport(**good | wrong)
    with pytest.raises(ValidationError, match="two exports have the same name"):
        Settings(exports=(ScheduledExport(**good), ScheduledExport(**good)))
    assert "/exports" not in repr(ScheduledExport(**good))
