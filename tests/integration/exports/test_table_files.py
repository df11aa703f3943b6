"""Tables and KBART lists as the schedule and the dashboard ask for them: by the name of their format."""

import io
import sys
from typing import Any

import pytest
from sqlalchemy.orm import Session

from accession.catalog.change_feed import FeedFilter
from accession.core.errors import UserError
from accession.db.models import Collection
from accession.exports.formats import find_format
from tests.fixtures.factories import make_pool


def written(session: Session, name: str, **options: Any) -> tuple[bytes, list[int]]:
    """What is in the file, and what was told of the progress."""
    out = io.BytesIO()
    told: list[int] = []
    find_format(name).write(session, FeedFilter(), out, options, told.append)
    return out.getvalue(), told


@pytest.mark.parametrize("name", ["kbart", "csv", "jsonl", "parquet"])
def test_every_format_is_written_without_options(name: str, session: Session, collection: Collection) -> None:
    make_pool(session, collection, "a")
    data, told = written(session, name)
    assert data
    assert told == [1]


def test_options_are_those_of_the_command_line(session: Session, collection: Collection) -> None:
    make_pool(session, collection, "a")
    data, _ = written(session, "csv", columns=["status", "identifier"], bom=True)
    assert data == b"\xef\xbb\xbfstatus,identifier\r\nunknown,a\r\n"


def test_progress_is_told_now_and_then(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accession.exports.table_files._TOLD_EVERY", 2)
    for identifier in "abcde":
        make_pool(session, collection, identifier)
    assert written(session, "jsonl")[1] == [2, 4, 5]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("jsonl", {"bom": True}, "The option bom of a JSON Lines export cannot be used: "),
        ("csv", {"columns": "title"}, "The option columns of a CSV export cannot be used: "),
        ("parquet", {"columns": ["titles"]}, 'There is no column "titles", perhaps "title": '),
        ("kbart", {"url_template": "ftp://x"}, "The option url_template of a KBART export cannot be used: "),
        (
            "excel",
            {},
            'There is no format "excel": choose among marc21, ',
        ),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_anything_is_written(
    name: str, options: dict[str, Any], sentence: str, session: Session
) -> None:
    out = io.BytesIO()
    with pytest.raises(UserError) as refused:
        find_format(name).write(session, FeedFilter(), out, options, lambda _: None)
    assert str(refused.value).startswith(sentence)
    assert out.getvalue() == b""


def test_a_format_that_cannot_be_written_here_says_so_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="Parquet needs pyarrow"):
        find_format("parquet")
