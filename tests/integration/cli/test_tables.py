"""Commands `export kbart`, `csv`, `jsonl`, `parquet` and `columns`."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import time_machine
from pyarrow import parquet
from sqlalchemy.orm import Session

from accession.cli import main
from accession.core.settings import ScheduledExport, get_settings
from accession.db.engine import engine
from accession.exports.tables import COLUMNS
from accession.local.servers import ServerUrls
from accession.runs.scheduled_exports import ExportFile, store_export_error, store_export_file
from tests.fixtures.commands import (
    COMMAND_TIMEOUT_SECONDS,
    Cli,
    environment,
    preserved_logging,
    server_variables,
)
from tests.fixtures.factories import NOON, make_collection, store_title
from tests.fixtures.servers import delete_all_rows

NAMES = ", ".join(column.name for column in COLUMNS)


@pytest.fixture(scope="module")
def titles(servers: object) -> None:
    """Two collections with one title each, stored at noon, which the tests only read."""
    delete_all_rows()
    with Session(engine()) as session, time_machine.travel(NOON, tick=False):
        store_title(session, make_collection(session, "Alder Library"), "solaris")
        store_title(session, make_collection(session, "Birch Library"), "eden")


def exported_ids(out: str) -> list[str]:
    return [json.loads(line)["identifier"] for line in out.splitlines()]


def test_export_is_filtered_by_collection(cli: Cli, titles: None) -> None:
    assert exported_ids(cli("export", "jsonl").stdout) == ["solaris", "eden"]
    assert exported_ids(cli("export", "jsonl", "--collection", "Birch Library").stdout) == ["eden"]
    both = ("--collection", "Birch Library", "--collection", "Alder Library")
    result = cli("export", "jsonl", *both)
    assert (result.exit_code, exported_ids(result.stdout), result.stderr) == (0, ["solaris", "eden"], "")


def test_columns_are_selected_in_order(cli: Cli, titles: None) -> None:
    result = cli("export", "csv", "--columns", "title, identifier", "--bom")
    assert result.stdout == "\ufefftitle,identifier\r\nTitle solaris,solaris\r\nTitle eden,eden\r\n"


def test_columns_are_listed_with_description(cli: Cli, titles: None) -> None:
    lines = cli("export", "columns").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["Column", *(column.name for column in COLUMNS), "change"]
    assert "copies available for loan" in next(line for line in lines if "_available" in line)


def test_export_to_file_reports_path_and_count(cli: Cli, titles: None, tmp_path: Path) -> None:
    file = tmp_path / "titles.parquet"
    result = cli("export", "parquet", "--output", str(file))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"Wrote 2 titles to {file}\n")
    assert parquet.read_table(file)["identifier"].to_pylist() == ["solaris", "eden"]
    assert list(tmp_path.iterdir()) == [file]


def test_kbart_file_is_named_by_collection_and_date(cli: Cli, titles: None, tmp_path: Path) -> None:
    template = ("--url-template", "https://library.example/{identifier}")
    with time_machine.travel(NOON, tick=False):
        cli("export", "kbart", "--collection", "Alder Library", *template, "--output", str(tmp_path))
        cli("export", "kbart", "--since", "2024-05-01", "--output", str(tmp_path))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [
        "cloudLibrary_AlderLibrary_AllTitles_2024-05-01.txt",
        "cloudLibrary_Consortium_Changes_2024-05-01.txt",
    ]
    with (tmp_path / names[0]).open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert (row["title_id"], row["title_url"]) == ("solaris", "https://library.example/solaris")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("csv", "--columns", "titel"),
            f'There is no column "titel" (did you mean "title"?): choose from {NAMES}.',
        ),
        (("jsonl", "--columns", ""), f'There is no column "": choose from {NAMES}.'),
        (
            ("parquet", "--columns", "isbns,isbns"),
            'The column "isbns" is given twice: name each column once.',
        ),
        (
            ("csv", "--columns", "change"),
            'The column "change" needs a start time: give one with --since.',
        ),
        (
            ("kbart", "--since", "yesterday"),
            '"yesterday" is not a valid time: use a date (2024-05-01), a time (2024-05-01T12:00) or a '
            "duration (7d).",
        ),
        (("csv", "--collection", "Cedar"), 'No collection found named "Cedar".'),
        (
            ("kbart", "--url-template", "https://library.example/{id}"),
            "The option url_template of a KBART export is invalid: it must contain {identifier}.",
        ),
    ],
)
def test_invalid_option_is_reported(arguments: tuple[str, ...], message: str, cli: Cli, titles: None) -> None:
    assert cli("export", *arguments).error == message


def test_failed_export_keeps_existing_file(cli: Cli, titles: None, tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_text("previous export")
    assert cli("export", "csv", "--collection", "Cedar", "--output", str(file)).exit_code == 1
    assert file.read_text() == "previous export"
    assert "cannot be written" in cli("export", "csv", "--output", str(tmp_path / "no" / "file")).error


def test_parquet_without_pyarrow_suggests_installation(
    cli: Cli, titles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert cli("export", "parquet").error == (
        "Parquet needs pyarrow, which is not installed: run `pip install 'accession-library[parquet]'`."
    )


def test_parquet_to_pipe_is_complete(servers: ServerUrls, titles: None, tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "accession", "export", "parquet"],
        env=environment(ACCESSION_HOME=str(tmp_path), **server_variables(servers)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
    )
    (tmp_path / "out").write_bytes(completed.stdout)
    assert (completed.returncode, completed.stderr) == (0, b"")
    assert parquet.read_table(tmp_path / "out").num_rows == 2


def test_export_to_terminal_is_refused(
    celery_app: None, titles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["accession", "export", "csv"])
    controller, terminal = pty.openpty()
    error = io.StringIO()
    try:
        with (
            open(terminal, "w") as stdout,
            redirect_stdout(stdout),
            redirect_stderr(error),
            preserved_logging(),
            pytest.raises(SystemExit, match=r"^1$"),
        ):
            main.main()
    finally:
        os.close(controller)
    assert error.getvalue().splitlines() == [
        "An export cannot be shown on a terminal: name a file with --output, or use a pipe."
    ]


def test_scheduled_exports_are_listed_with_their_last_files(
    cli: Cli, database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No scheduled exports" in cli("export", "list").stdout
    export_settings = ScheduledExport(name="nightly", format="csv", target="/exports", at="hourly")
    monkeypatch.setattr(get_settings(), "exports", (export_settings,))
    with Session(engine()) as session, time_machine.travel(NOON, tick=False):
        store_export_file(session, "nightly", ExportFile("nightly.csv", 2_500_000, 1200))
        store_export_error(session, "nightly", "/exports is full: free some space.")
        session.commit()

    _, line, error = cli("export", "list").stdout.splitlines()

    assert re.split("  +", line.strip()) == [
        *("nightly", "csv", "hourly", "failed", "nightly.csv", "2024-05-01 12:00", "1,200", "2.5 MB")
    ]
    assert error == (
        "nightly: /exports is full: free some space. It was due on 2024-05-01 at 13:00 UTC, but no worker "
        "has written it: start the scheduler and a worker."
    )
    (row,) = cli("export", "list", "--json").json
    assert (row["state"], row["bytes"], row["written_at"]) == ("failed", 2_500_000, "2024-05-01T12:00:00Z")
