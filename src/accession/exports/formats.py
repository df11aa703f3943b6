"""The forms in which the catalogue leaves as a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from sqlalchemy.orm import Session

from accession.catalog.change_feed import FeedFilter
from accession.core.errors import NotFound
from accession.exports.marc_files import write_marc21, write_marcxml
from accession.exports.table_files import (
    write_csv_file,
    write_json_lines_file,
    write_kbart_file,
    write_parquet_file,
)
from accession.exports.tables import require_pyarrow

Progress = Callable[[int], None]


class Write(Protocol):
    """Writes the titles wanted to `out`, tells `progress` now and then how many it has written, and returns
    how many there were. Options that cannot be used raise `UserError` before anything is written."""

    def __call__(
        self,
        session: Session,
        wanted: FeedFilter,
        out: BinaryIO,
        options: Mapping[str, Any],
        progress: Progress,
    ) -> int: ...


@dataclass(frozen=True)
class Format:
    """A form of file: `label` is for people, `suffix` with its dot. `require` raises `UserError` where what
    it is written with is not installed."""

    name: str
    label: str
    suffix: str
    media_type: str
    write: Write
    require: Callable[[], object] = lambda: None


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format("marc21", "MARC 21", ".mrc", "application/marc", write_marc21),
        Format("marcxml", "MARCXML", ".xml", "application/marcxml+xml", write_marcxml),
        Format("kbart", "KBART", ".txt", "text/tab-separated-values", write_kbart_file),
        Format("csv", "CSV", ".csv", "text/csv", write_csv_file),
        Format("jsonl", "JSON Lines", ".jsonl", "application/jsonl", write_json_lines_file),
        Format(
            "parquet",
            "Parquet",
            ".parquet",
            "application/vnd.apache.parquet",
            write_parquet_file,
            require_pyarrow,
        ),
    )
}


def find_format(name: str) -> Format:
    """The format of this name; raises `NotFound` when there is none, and `UserError` when it
    cannot be written here."""
    found = FORMATS.get(name)
    if found is None:
        raise NotFound(f'There is no format "{name}": choose among {", ".join(FORMATS)}.')
    found.require()
    return found
