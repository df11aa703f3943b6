"""Registry of the file formats of exports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from sqlalchemy.orm import Session

from accession.catalog.feed_filter import FeedFilter
from accession.core.errors import NotFound
from accession.exports.marc_files import write_marc21, write_marcxml
from accession.exports.progress import Progress
from accession.exports.table_files import (
    write_csv_file,
    write_json_lines_file,
    write_kbart_file,
    write_parquet_file,
)
from accession.exports.tables import require_pyarrow


class Writer(Protocol):
    """Function that writes the selected titles to `out` and returns their number.

    It reports to `progress` the number of titles written so far. Invalid options raise `UserError` before
    anything is written.
    """

    def __call__(
        self,
        session: Session,
        selection: FeedFilter,
        out: BinaryIO,
        options: Mapping[str, Any],
        progress: Progress,
    ) -> int:
        """Write the selected titles."""


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        label: Name for people.
        suffix: File name suffix with its dot.
        require: Raises `UserError` if a package that the format needs is not installed.
    """

    name: str
    label: str
    suffix: str
    media_type: str
    write: Writer
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
    """Return the format with this name.

    Raises:
        NotFound: there is no such format.
        UserError: a package that the format needs is not installed.
    """
    file_format = FORMATS.get(name)
    if file_format is None:
        raise NotFound(f'There is no format "{name}": choose from {", ".join(FORMATS)}.')
    file_format.require()
    return file_format
