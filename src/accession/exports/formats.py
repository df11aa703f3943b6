"""Registry of the file formats of exports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from sqlalchemy.orm import Session

from accession.catalog.feed_filter import FeedFilter
from accession.core.errors import NotFound
from accession.exports.marc_files import MarcOptions, write_marc21, write_marcxml
from accession.exports.options import Options, parse_options
from accession.exports.progress import Progress
from accession.exports.table_files import (
    CsvOptions,
    KbartOptions,
    TableOptions,
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
        readers: What reads such files, as the end of "for ...".
        suffix: File name suffix with its dot.
        options: Its options.
        require: Raises `UserError` if a package that the format needs is not installed.
    """

    name: str
    label: str
    readers: str
    suffix: str
    media_type: str
    write: Writer
    options: type[Options]
    require: Callable[[], object] = lambda: None

    def check_options(self, options: Mapping[str, Any], selection: FeedFilter) -> None:
        """Check the options of an export before it is written.

        Raises:
            UserError: an option is unknown or invalid.
        """
        parse_options(self.options, options, self.label).check(selection)


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format(
            "marc21",
            "MARC 21",
            "library systems, such as Koha and Evergreen",
            ".mrc",
            "application/marc",
            write_marc21,
            MarcOptions,
        ),
        Format(
            "marcxml",
            "MARCXML",
            "library systems and discovery layers that read XML",
            ".xml",
            "application/marcxml+xml",
            write_marcxml,
            MarcOptions,
        ),
        Format(
            "kbart",
            "KBART",
            "knowledge bases and link resolvers",
            ".txt",
            "text/tab-separated-values",
            write_kbart_file,
            KbartOptions,
        ),
        Format("csv", "CSV", "spreadsheets", ".csv", "text/csv", write_csv_file, CsvOptions),
        Format(
            "jsonl",
            "JSON Lines",
            "programs and scripts",
            ".jsonl",
            "application/jsonl",
            write_json_lines_file,
            TableOptions,
        ),
        Format(
            "parquet",
            "Parquet",
            "data analysis, such as DuckDB and pandas",
            ".parquet",
            "application/vnd.apache.parquet",
            write_parquet_file,
            TableOptions,
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
