"""Changes of the settings between two starts of a process, as the audit log has them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, read_audit_log
from accession.auth.settings_changes import record_settings
from accession.core.settings import ScheduledExport, Settings, get_settings, use_settings

SECRET = "hunter2-hunter2"

Start = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def start(session: Session) -> Iterator[Start]:
    """Start a process with the settings, and return the details of all entries, oldest first."""
    before = get_settings()

    def start_with(process: str = "worker", **settings: Any) -> list[dict[str, Any]]:
        use_settings(Settings(home=before.home, **settings))
        record_settings(session, process)
        session.commit()
        return [dict(entry.details) for entry in read_audit_log(session, AuditFilter())][::-1]

    yield start_with
    use_settings(before)


def test_start_with_defaults_is_not_recorded(start: Start) -> None:
    assert start() == []


def test_first_start_records_what_differs_from_defaults(start: Start) -> None:
    assert start(log_level="debug") == [{"log_level": "info → debug"}]


def test_changed_settings_are_recorded_with_old_and_new_value(start: Start) -> None:
    start(log_level="debug")
    start(log_level="debug", time_zone="Europe/Berlin")
    assert start() == [
        {"log_level": "info → debug"},
        {"time_zone": "UTC → Europe/Berlin"},
        {"time_zone": "Europe/Berlin → UTC", "log_level": "debug → info"},
    ]


def test_start_with_same_settings_is_not_recorded_again(start: Start) -> None:
    start(log_level="debug")

    assert len(start(log_level="debug")) == 1


def test_settings_are_compared_with_the_same_kind_of_process(start: Start, session: Session) -> None:
    start("web", web_host="::1")
    start("worker")
    start("web", web_host="::1")

    (entry,) = read_audit_log(session, AuditFilter())
    assert (entry.actor_kind, entry.actor, entry.origin) == ("system", "web", "configuration")
    assert (entry.action, entry.subject) == ("settings.change", "web")


def test_secrets_are_not_recorded(start: Start) -> None:
    export = ScheduledExport(name="x", format="csv", target=f"sftp://ann:{SECRET}@host/x")
    (details,) = start(
        database_url=SecretStr(f"postgresql://ann:{SECRET}@host/accession"),
        secret_key=SecretStr(SECRET),
        exports=(export,),
    )

    assert (details["database_url"], details["secret_key"]) == ("not set → set", "not set → set")
    assert "sftp://host/x" in details["exports"]
    assert SECRET not in str(details)
