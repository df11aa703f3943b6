"""Files of the audit log, for the command line and the dashboard."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import StrEnum
from typing import BinaryIO, Protocol

from pydantic_core import to_json

from accession.auth.audit import AuditEntryView
from accession.core.sanitize import escape_formula, escape_json_line


class AuditFormat(StrEnum):
    """Format of a file of the audit log."""

    CSV = "csv"
    JSON = "json"


class _Write(Protocol):
    def __call__(self, entries: Iterable[AuditEntryView], out: BinaryIO) -> None: ...


def write_audit_log(entries: Iterable[AuditEntryView], out: BinaryIO, audit_format: AuditFormat) -> None:
    """Write entries as CSV with a header row, or as a JSON list; both in UTF-8.

    In CSV the details are JSON, and what a spreadsheet would evaluate as a formula is escaped.
    """
    _WRITERS[audit_format](entries, out)


def _write_csv(entries: Iterable[AuditEntryView], out: BinaryIO) -> None:
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\r\n")
    names = [field.name for field in fields(AuditEntryView)]
    writer.writerow(names)
    for entry in entries:
        values = {**vars(entry), "at": entry.at.isoformat(), "details": json.dumps(entry.details)}
        writer.writerow([escape_formula(str(values[name])) for name in names])
    text.detach()


def _write_json(entries: Iterable[AuditEntryView], out: BinaryIO) -> None:
    separator = b"["
    for entry in entries:
        out.write(separator + b"\n" + escape_json_line(to_json(entry).decode()).encode())
        separator = b","
    out.write(b"[]\n" if separator == b"[" else b"\n]\n")


_WRITERS: Mapping[AuditFormat, _Write] = {AuditFormat.CSV: _write_csv, AuditFormat.JSON: _write_json}
