"""Files of tables and KBART lists by format name, as the schedule and the dashboard write them."""

import io
import sys
from typing import Any

import pytest
from sqlalchemy.orm import Session

from accession.catalog.feed_filter import FeedFilter
from accession.core.errors import UserError
from accession.db.models import Collection
from accession.exports.formats import find_format
from tests.fixtures.factories import make_pool


def export(session: Session, name: str, **options: Any) -> tuple[bytes, list[int]]:
    """Return the content of the file and the progress reports."""
    out = io.BytesIO()
    reports: list[int] = []
    find_format(name).write(session, FeedFilter(), out, options, reports.append)
    return out.getvalue(), reports


@pytest.mark.parametrize("name", ["kbart", "csv", "jsonl", "parquet"])
def test_every_format_works_without_options(name: str, session: Session, collection: Collection) -> None:
    make_pool(session, collection, "a")
    data, reports = export(session, name)
    assert data
    assert reports == [1]


def test_options_are_those_of_the_command_line(session: Session, collection: Collection) -> None:
    make_pool(session, collection, "a")
    data, _ = export(session, "csv", columns=["status", "identifier"], bom=True)
    assert data == b"\xef\xbb\xbfstatus,identifier\r\nunknown,a\r\n"


def test_progress_is_reported_at_intervals(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accession.exports.progress._INTERVAL", 2)
    for identifier in "abcde":
        make_pool(session, collection, identifier)
    assert export(session, "jsonl")[1] == [2, 4, 5]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jsonl", {"bom": True}, "The option bom of a JSON Lines export is invalid: "),
        ("csv", {"columns": "title"}, "The option columns of a CSV export is invalid: "),
        ("parquet", {"columns": ["titles"]}, 'There is no column "titles" (did you mean "title"?): '),
        ("kbart", {"url_template": "ftp://x"}, "The option url_template of a KBART export is invalid: "),
        (
            "excel",
            {},
            'There is no format "excel": choose from marc21, ',
        ),
    ],
)
def test_invalid_options_are_rejected_before_writing(
    name: str, options: dict[str, Any], message: str, session: Session
) -> None:
    out = io.BytesIO()
    with pytest.raises(UserError) as error:
        find_format(name).write(session, FeedFilter(), out, options, lambda _: None)
    assert str(error.value).startswith(message)
    assert out.getvalue() == b""


def test_missing_pyarrow_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="Parquet needs pyarrow"):
        find_format("parquet")
