"""Files of reports."""

from collections.abc import Iterable
from itertools import chain
from typing import BinaryIO

from accession.core.csv_files import CsvFormat, write_csv_rows
from accession.reports.model import Report, Row


def write_csv(report: Report, rows: Iterable[Row], out: BinaryIO, csv_format: CsvFormat) -> None:
    """Write rows as CSV with a header row of the columns' names; codes stay codes."""
    names = [column.name for column in report.columns]
    cells = ([row.values[name] for name in names] for row in rows)
    write_csv_rows(out, chain([names], cells), csv_format)
