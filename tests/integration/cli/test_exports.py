"""Command `export marc`, consistent snapshots, and the check of scheduled exports."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pymarc
import pytest
import time_machine
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from accession.core.settings import ScheduledExport, get_settings
from accession.db.engine import snapshot
from accession.db.models import Collection, PurchaseRecord
from accession.runs.scheduled_exports import ExportFile, store_export_error, store_export_file
from tests.fixtures.commands import Cli
from tests.fixtures.factories import NOON, make_collection
from tests.fixtures.purchases import purchase_title, set_copies


@pytest.fixture
def titles(session: Session, collection: Collection) -> None:
    """Two collections with one title each, and a third whose title was removed a day later."""
    purchase_title(session, collection, "solaris", NOON)
    purchase_title(session, make_collection(session, "Birch Library"), "eden", NOON)
    withdrawn = purchase_title(session, make_collection(session, "Cedar Library"), "fiasco", NOON)
    set_copies(session, withdrawn, NOON + timedelta(days=1), owned=0)


def read_ids(file: Path) -> list[tuple[str | None, str]]:
    """Return id and record status (leader/05) of the records in a file."""
    records = pymarc.MARCReader(file.read_bytes(), permissive=False)
    return [(each["001"].data, str(each.leader)[5]) for each in records if each is not None]


def test_export_writes_whole_catalogue_to_file(cli: Cli, titles: None, tmp_path: Path) -> None:
    file = tmp_path / "records.mrc"
    result = cli("export", "marc", "--output", str(file))

    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"Wrote 2 titles to {file}\n")
    assert read_ids(file) == [("solaris", "n"), ("eden", "n")]


def test_export_adds_profile_fields_links_and_availability(cli: Cli, titles: None, tmp_path: Path) -> None:
    file, profile = tmp_path / "records.mrc", tmp_path / "koha.toml"
    profile.write_text('[[fields]]\ntag = "942"\nsubfields = [["c", "EBOOK"]]\n')
    options = (
        "--url-template",
        "https://ebook.example/{identifier}",
        "--profile",
        str(profile),
        "--availability",
    )
    result = cli("export", "marc", "--collection", "Birch Library", *options, "--output", str(file))

    assert result.exit_code == 0
    [record] = pymarc.MARCReader(file.read_bytes(), permissive=False)
    assert record is not None
    assert (record["001"].data, record["942"]["c"], record["852"]["b"]) == ("eden", "EBOOK", "Birch Library")
    assert record.get_fields("856")[-1]["u"] == "https://ebook.example/eden"


def test_export_since_contains_changed_and_removed_titles(cli: Cli, titles: None, tmp_path: Path) -> None:
    file = tmp_path / "changes.mrc"

    assert (
        cli(
            "export", "marc", "--since", f"{NOON + timedelta(days=1):%Y-%m-%d}", "--output", str(file)
        ).exit_code
        == 0
    )
    assert read_ids(file) == [("fiasco", "d")]
    assert (
        cli("export", "marc", "--since", "1h", "--output", str(file)).stderr == f"Wrote 0 titles to {file}\n"
    )
    assert read_ids(file) == []


def test_export_without_file_writes_to_standard_output(cli: Cli, titles: None) -> None:
    result = cli("export", "marc", "--format", "marcxml", "--collection", "Alder Library")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<collection')
    assert '<controlfield tag="001">solaris</controlfield>' in result.stdout


@pytest.mark.parametrize("form", ["marc21", "marcxml"])
def test_check_lists_corrections_and_changes_no_byte(
    form: str, cli: Cli, session: Session, titles: None, tmp_path: Path
) -> None:
    plain, checked = tmp_path / "plain", tmp_path / "checked"
    assert cli("export", "marc", "--format", form, "--output", str(plain), "--check").stderr == (
        f"Wrote 2 titles to {plain}\nAll records were valid MARC 21\n"
    )
    for record in session.scalars(select(PurchaseRecord)):
        record.marc = record.marc.replace(b"3a 4500", b"!a 4500")
    session.commit()
    cli("export", "marc", "--format", form, "--output", str(plain))

    result = cli("export", "marc", "--format", form, "--output", str(checked), "--check")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines()[1:] == [
        "Corrected 2 records to valid MARC 21:",
        "      2  leader/17 replaced (solaris, eden)",
    ]
    assert checked.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--since", "yesterday"), '"yesterday" is not a valid time: use a date (2024-05-01)'),
        (("--collection", "Dogwood"), 'No collection found named "Dogwood".'),
        (("--url-template", "https://ebook.example/"), "it must contain {identifier}"),
        (("--profile", "/missing/koha.toml"), "The profile /missing/koha.toml cannot be read"),
        (("--output", "/missing/records.mrc"), "/missing/records.mrc cannot be written"),
        (("--output", "nowhere://ann:secret@host/x.mrc"), "nowhere://host/x.mrc cannot be written"),
    ],
)
def test_invalid_option_is_reported(options: tuple[str, str], message: str, cli: Cli, titles: None) -> None:
    error = cli("export", "marc", *options).error

    assert message in error
    assert "secret" not in error


def test_failed_export_keeps_existing_file(cli: Cli, titles: None, tmp_path: Path) -> None:
    file = tmp_path / "records.mrc"
    cli("export", "marc", "--output", str(file))
    before = file.read_bytes()

    result = cli("export", "marc", "--url-template", "https://ebook.example/", "--output", str(file))

    assert result.exit_code == 1
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_snapshot_is_consistent_and_read_only(session: Session, titles: None) -> None:
    with snapshot() as reading:
        before = reading.scalar(text("SELECT count(*) FROM license_pools"))
        purchase_title(session, make_collection(session, "Later Library"), "later", NOON)
        assert reading.scalar(text("SELECT count(*) FROM license_pools")) == before
        assert reading.scalar(text("SHOW transaction_read_only")) == "on"


def test_doctor_checks_scheduled_exports(
    cli: Cli, titles: None, without_worker_wait: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_settings(name: str, **changes: Any) -> dict[str, Any]:
        return {"name": name, "format": "marc21", "target": str(tmp_path)} | changes

    exports = [
        export_settings("good", target="s3://ann:secret@bucket/folder"),
        export_settings("format", format="epub"),
        export_settings("folder", target="/missing/folder"),
        export_settings("collection", collections=["Dogwood"]),
        export_settings("since", since="yesterday"),
    ]
    scheduled = tuple(ScheduledExport.model_validate(export) for export in exports)
    monkeypatch.setattr(get_settings(), "exports", scheduled)

    checks = {check["name"]: check for check in cli("doctor", "--json").json}
    results = {export["name"]: checks[f"export {export['name']}"] for export in exports}

    assert [name for name, check in results.items() if check["ok"]] == ["good"]
    assert results["good"]["finding"] == "marc21 to s3://bucket/folder at 06:00, not written yet"
    assert results["format"]["finding"].startswith('There is no format "epub"')
    assert results["folder"]["finding"].startswith("/missing/folder is not a writable folder")
    assert results["collection"]["finding"] == 'No collection found named "Dogwood".'
    assert results["since"]["finding"].startswith('"yesterday" is not a valid time')


def check_exports(cli: Cli, at: datetime) -> list[tuple[bool, str]]:
    """Return the result of each export's check at some time."""
    with time_machine.travel(at, tick=False):
        checks = cli("doctor", "--json").json
    return [(check["ok"], check["finding"]) for check in checks if check["name"].startswith("export ")]


def test_doctor_reports_last_result_of_scheduled_export(
    cli: Cli, session: Session, without_worker_wait: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = ScheduledExport(name="nightly", format="csv", target=str(tmp_path))
    monkeypatch.setattr(get_settings(), "exports", (export,))
    with time_machine.travel(NOON, tick=False):
        store_export_file(session, "nightly", ExportFile("nightly-20240501T120000Z.csv", 2_500_000, 1200))
    session.commit()

    written = f"csv to {tmp_path} at 06:00, last written 2024-05-01 12:00 UTC"
    assert check_exports(cli, NOON) == [(True, written)]
    assert check_exports(cli, NOON + timedelta(days=2)) == [
        (
            False,
            "the last attempt was on 2024-05-01 at 12:00 UTC and succeeded. It was due on 2024-05-02 at "
            "06:00 UTC, but no worker has written it: start the scheduler and a worker. It is written daily "
            "at 06:00 (UTC).",
        )
    ]

    with time_machine.travel(NOON + timedelta(days=2), tick=False):
        store_export_error(session, "nightly", "/exports is full: free some space.")
    session.commit()

    assert check_exports(cli, NOON + timedelta(days=2)) == [
        (
            False,
            "the last attempt was on 2024-05-03 at 12:00 UTC and failed. /exports is full: free some space. "
            "It is written daily at 06:00 (UTC).",
        )
    ]
