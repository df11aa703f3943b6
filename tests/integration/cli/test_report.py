"""Command `accession report`."""

import csv
import io
from collections.abc import Iterator

import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.db.models import Collection
from accession.reports.registry import REPORTS
from tests.fixtures.commands import Cli
from tests.fixtures.factories import NOON, subject
from tests.fixtures.statistics import refresh_statistics, store_title_in_use


@pytest.fixture(autouse=True)
def _first_of_may() -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture
def popular(session: Session, collection: Collection) -> Collection:
    """Store a title with five holds on two copies."""
    store_title_in_use(
        session, collection, "solaris", title="=Solaris\x1b[2J", patrons_in_hold_queue=5, licenses_owned=2
    )
    return collection


def test_reports_are_listed_without_a_name(cli: Cli) -> None:
    listed = cli("report").stdout
    assert all(name in listed for name in REPORTS)
    assert "--threshold" in listed


def test_table_shows_formatted_values(cli: Cli, popular: Collection) -> None:
    printed = cli("report", "holds-ratio", "--threshold", "2", "--collection", "Alder Library").stdout
    assert "=Solaris [2J" in printed
    assert "EPUB e-book" in printed
    assert "2.50" in printed


def test_json_has_the_values_of_all_columns(cli: Cli, popular: Collection) -> None:
    (row,) = cli("report", "holds-ratio", "--threshold", "2", "--format", "json").json
    assert set(row) == {column.name for column in REPORTS["holds-ratio"].columns}
    assert (row["identifier"], row["holds_per_copy"], row["copies_to_buy"]) == ("solaris", 2.5, 1)
    assert row["format"] == "epub"


def test_csv_escapes_formulas(cli: Cli, popular: Collection) -> None:
    printed = cli("report", "holds-ratio", "--threshold", "2", "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(printed))
    assert row["title"].startswith("'=Solaris")
    assert row["holds"] == "5"


def test_csv_has_the_chosen_delimiter_and_a_bom(cli: Cli, popular: Collection) -> None:
    options = ("--format", "csv", "--delimiter", "semicolon", "--bom")
    printed = cli("report", "holds-ratio", "--threshold", "2", *options).stdout
    assert printed.startswith("\ufefftitle;authors;identifier;format;")
    assert ";solaris;epub;" in printed


@pytest.mark.parametrize("options", [("--delimiter", "tab"), ("--bom", "--format", "json")])
def test_options_of_csv_are_refused_for_other_formats(cli: Cli, options: tuple[str, ...]) -> None:
    assert "--delimiter and --bom need --format csv" in cli("report", "holds-ratio", *options).stderr


def test_table_tells_that_there_are_more_rows(cli: Cli, session: Session, collection: Collection) -> None:
    headings = tuple(subject(f"Heading {number}") for number in range(3))
    store_title_in_use(session, collection, "a", subjects=headings)
    refresh_statistics(session)
    printed = cli("report", "turnover", "--by", "subject", "--sort", "-value", "--limit", "2").stdout
    assert [line.split()[1] for line in printed.splitlines()[1:3]] == ["2", "1"]
    assert "2 of 3 rows" in printed


def test_report_without_rows_says_so(cli: Cli, collection: Collection) -> None:
    assert cli("report", "holds-ratio").stdout == "Nothing to report.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], 'There is no report "nothing": choose one of holds-ratio'),
        (["unused", "--by", "format"], "The report unused has no parameter by: it has months."),
        (["unused", "--months", "x"], '"x" is no months: enter a whole number from 1 to 240.'),
        (["unused", "--sort", "title"], 'cannot be sorted by "title"'),
        (["unused", "--collection", "Elm"], 'No collection found named "Elm".'),
        (["growth"], "The statistics have not been computed yet"),
    ],
)
def test_invalid_request_is_reported(
    cli: Cli, collection: Collection, arguments: list[str], message: str
) -> None:
    assert message in cli("report", *arguments).error
