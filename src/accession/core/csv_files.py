"""CSV files that are safe to open in a spreadsheet, whatever separator it expects."""

import codecs
import csv
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

from accession.core.sanitize import escape_formula


class Delimiter(StrEnum):
    """Character between the cells of a row."""

    COMMA = "comma"
    SEMICOLON = "semicolon"
    TAB = "tab"
    PIPE = "pipe"

    @property
    def character(self) -> str:
        """The character itself."""
        return {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}[self]


@dataclass(frozen=True)
class CsvFormat:
    """Details of a CSV file; `bom` starts it with a byte order mark, from which Excel recognises UTF-8."""

    delimiter: Delimiter = Delimiter.COMMA
    bom: bool = False


def write_csv_rows(
    out: BinaryIO, rows: Iterable[Iterable[object]], csv_format: CsvFormat | None = None
) -> None:
    """Write rows as CSV (RFC 4180, UTF-8).

    Texts that a spreadsheet would evaluate as a formula are escaped, also after a separator within a text:
    spreadsheets of other countries take it for the end of a cell.
    """
    csv_format = csv_format or CsvFormat()
    if csv_format.bom:
        out.write(codecs.BOM_UTF8)
    writer = csv.writer(
        codecs.getwriter("utf-8")(out), delimiter=csv_format.delimiter.character, lineterminator="\r\n"
    )
    for row in rows:
        writer.writerow([escape_formula(cell) if isinstance(cell, str) else cell for cell in row])
