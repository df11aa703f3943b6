"""Files of reports."""

import codecs
import csv
from collections.abc import Iterable
from datetime import date
from typing import Any, BinaryIO

from accession.core.sanitize import escape_formula
from accession.reports.model import Report, Row


def write_csv(report: Report, rows: Iterable[Row], out: BinaryIO) -> None:
    """Write rows as CSV (RFC 4180, UTF-8) with a header row of the columns' names.

    Texts that a spreadsheet would evaluate as a formula are escaped.
    """
    writer = csv.writer(codecs.getwriter("utf-8")(out), lineterminator="\r\n")
    names = [column.name for column in report.columns]
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row.values[name]) for name in names])


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return escape_formula(value)
    if isinstance(value, date):
        return value.isoformat()
    return value
