"""Exports of tables and KBART, as a person asks for them."""

import csv
import json
import os
import pty
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from pyarrow import parquet
from sqlalchemy.exc import InternalError
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_titles
from accession.catalog.change_feed import FeedFilter, feed
from accession.db.engine import snapshot
from accession.db.models import Collection
from accession.exports.tables import COLUMNS
from accession.local.servers import ServerUrls
from tests.fixtures.commands import PATIENCE_SECONDS, Run, environment
from tests.fixtures.factories import NOON, make_collection, make_pool, title_data

HOUR = timedelta(hours=1)
NAMES = ", ".join(column.name for column in COLUMNS)


def put(session: Session, collection: Collection, identifier: str, **changes: Any) -> None:
    """The collection has the title, committed."""
    pool = make_pool(session, collection, identifier)
    apply_titles(session, {pool.id: title_data(identifier, **changes)})
    session.commit()


@pytest.fixture
def held(session: Session, collection: Collection) -> None:
    """Two collections with a title each since noon."""
    with time_machine.travel(NOON, tick=False):
        put(session, collection, "solaris")
        put(session, make_collection(session, "Birch Library"), "eden")


def ids(out: str) -> list[str]:
    return [json.loads(line)["identifier"] for line in out.splitlines()]


def test_titles_of_chosen_collections_go_to_standard_output(run: Run, held: None) -> None:
    assert ids(run("export", "jsonl").out) == ["solaris", "eden"]
    assert ids(run("export", "jsonl", "--collection", "Birch Library").out) == ["eden"]
    both = ("--collection", "Birch Library", "--collection", "Alder Library")
    answer = run("export", "jsonl", *both)
    assert (answer.code, ids(answer.out), answer.err) == (0, ["solaris", "eden"], "")


def test_columns_are_chosen_by_name_and_in_order(run: Run, held: None) -> None:
    answer = run("export", "csv", "--columns", "title, identifier", "--bom")
    assert answer.out == "\ufefftitle,identifier\r\nTitle solaris,solaris\r\nTitle eden,eden\r\n"


def test_the_columns_are_listed_with_what_they_mean(run: Run, held: None) -> None:
    lines = run("export", "columns").out.splitlines()
    assert [line.split()[0] for line in lines] == ["Column", *(column.name for column in COLUMNS), "change"]
    assert "copies that can be borrowed now" in next(line for line in lines if "_available" in line)


def test_what_has_changed_is_told_with_how(
    run: Run, session: Session, collection: Collection, held: None
) -> None:
    later = NOON + HOUR
    with time_machine.travel(later, tick=False):
        put(session, collection, "solaris", licenses_owned=0, licenses_available=0, as_of=later)
        put(session, collection, "fiasco")
    for since in ("2024-05-01T13:00:00Z", "2024-05-01 13:00", "2024-05-01T15:00+02:00"):
        answer = run("export", "csv", "--since", since, "--columns", "identifier")
        assert answer.out.split() == ["change,identifier", "removed,solaris", "new,fiasco"]
    assert ids(run("export", "jsonl").out) == ["eden", "fiasco"]
    assert run("export", "csv", "--since", "2024-05-02", "--columns", "identifier").out.split() == [
        "change,identifier"
    ]


def test_a_file_is_named_and_counted(run: Run, held: None, tmp_path: Path) -> None:
    file = tmp_path / "titles.parquet"
    answer = run("export", "parquet", "--output", str(file))
    assert (answer.code, answer.out, answer.err) == (0, "", f"2 titles in {file}\n")
    assert parquet.read_table(file)["identifier"].to_pylist() == ["solaris", "eden"]
    assert list(tmp_path.iterdir()) == [file]


def test_a_list_for_a_knowledge_base_is_named_as_it_should_be(run: Run, held: None, tmp_path: Path) -> None:
    template = ("--url-template", "https://library.example/{identifier}")
    with time_machine.travel(NOON, tick=False):
        run("export", "kbart", "--collection", "Alder Library", *template, "--output", str(tmp_path))
        run("export", "kbart", "--since", "2024-05-01", "--output", str(tmp_path))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [
        "cloudLibrary_AlderLibrary_AllTitles_2024-05-01.txt",
        "cloudLibrary_Consortium_Changes_2024-05-01.txt",
    ]
    with (tmp_path / names[0]).open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert (row["title_id"], row["title_url"]) == ("solaris", "https://library.example/solaris")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("csv", "--columns", "titel"), f'There is no column "titel", perhaps "title": choose from {NAMES}.'),
        (("jsonl", "--columns", ""), f'There is no column "": choose from {NAMES}.'),
        (
            ("parquet", "--columns", "isbns,isbns"),
            'The column "isbns" is chosen twice: name each column once.',
        ),
        (
            ("csv", "--columns", "change"),
            'The column "change" says what has become of a title since a moment: name one with --since.',
        ),
        (
            ("kbart", "--since", "yesterday"),
            '"yesterday" is no moment: give a date as 2024-05-01, a moment as 2024-05-01T12:00, '
            "or a span as 7d.",
        ),
        (("csv", "--collection", "Cedar"), 'No collection found named "Cedar".'),
        (
            ("kbart", "--url-template", "https://library.example/{id}"),
            "The option url_template of a KBART export cannot be used: it has no {identifier}, "
            "and so leads to no title.",
        ),
    ],
)
def test_what_cannot_be_asked_is_answered_with_one_sentence(
    arguments: tuple[str, ...], sentence: str, run: Run, held: None
) -> None:
    assert run("export", *arguments).sentence == sentence


def test_an_export_that_fails_leaves_the_file_that_was_there(run: Run, held: None, tmp_path: Path) -> None:
    file = tmp_path / "titles.csv"
    file.write_text("the last one")
    assert run("export", "csv", "--collection", "Cedar", "--output", str(file)).code == 1
    assert file.read_text() == "the last one"
    assert "cannot be written" in run("export", "csv", "--output", str(tmp_path / "no" / "file")).sentence


def test_parquet_without_pyarrow_says_how_to_get_it(
    run: Run, held: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run("export", "parquet").sentence == (
        "Parquet needs pyarrow, which is not installed: get it with `pip install 'accession[parquet]'`."
    )


def exported(
    servers: ServerUrls, home: Path, *arguments: str, stdout: int = subprocess.PIPE
) -> "subprocess.Popen[bytes]":
    """The export in a process of its own, on the servers of this test process."""
    urls = {"ACCESSION_DATABASE_URL": servers.database_url, "ACCESSION_REDIS_URL": servers.redis_url}
    return subprocess.Popen(
        [sys.executable, "-m", "accession", "export", *arguments],
        env=environment(ACCESSION_HOME=str(home), **urls),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def test_a_pipe_gets_all_of_a_parquet_file_and_nothing_else(
    servers: ServerUrls, held: None, tmp_path: Path
) -> None:
    with exported(servers, tmp_path, "parquet") as export:
        out, err = export.communicate(timeout=PATIENCE_SECONDS)
    (tmp_path / "out").write_bytes(out)
    assert (export.returncode, err) == (0, b"")
    assert parquet.read_table(tmp_path / "out").num_rows == 2


def test_texts_of_others_are_not_shown_on_a_terminal(servers: ServerUrls, held: None, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    try:
        with exported(servers, tmp_path, "csv", stdout=terminal) as export:
            _, err = export.communicate(timeout=PATIENCE_SECONDS)
    finally:
        os.close(controller)
        os.close(terminal)
    assert export.returncode == 1
    assert err.decode().splitlines() == [
        "A terminal cannot show this: name a file with --output, or send it into a pipe."
    ]


def test_an_export_is_of_one_moment_and_changes_nothing(
    session: Session, collection: Collection, held: None
) -> None:
    with snapshot() as reading:
        before = [title.title.identifier for title in feed(reading, FeedFilter())]
        put(session, collection, "bought meanwhile")
        assert [title.title.identifier for title in feed(reading, FeedFilter())] == before
        with pytest.raises(InternalError, match="read-only transaction"):
            make_collection(reading, "Cedar Library")
