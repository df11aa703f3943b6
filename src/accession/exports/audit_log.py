"""Files of the audit log, for the command line and the dashboard."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import StrEnum
from itertools import chain
from typing import BinaryIO, Protocol

from pydantic_core import to_json

from accession.auth.audit import AuditEntryView
from accession.core.csv_files import write_csv_rows
from accession.core.sanitize import escape_json_line


class AuditFormat(StrEnum):
    """Format of a file of the audit log."""

    CSV = "csv"
    JSON = "json"


class _Write(Protocol):
    def __call__(self, entries: Iterable[AuditEntryView], out: BinaryIO) -> None: ...


def write_audit_log(entries: Iterable[AuditEntryView], out: BinaryIO, audit_format: AuditFormat) -> None:
    """Write entries as CSV with a header row, or as a JSON list; both in UTF-8.

    In CSV the details are JSON.
    """
    _WRITERS[audit_format](entries, out)


def _write_csv(entries: Iterable[AuditEntryView], out: BinaryIO) -> None:
    names = [field.name for field in fields(AuditEntryView)]
    rows = (
        {**vars(entry), "at": entry.at.isoformat(), "details": json.dumps(entry.details)} for entry in entries
    )
    write_csv_rows(out, chain([names], ([str(row[name]) for name in names] for row in rows)))


def _write_json(entries: Iterable[AuditEntryView], out: BinaryIO) -> None:
    separator = b"["
    for entry in entries:
        out.write(separator + b"\n" + escape_json_line(to_json(entry).decode()).encode())
        separator = b","
    out.write(b"[]\n" if separator == b"[" else b"\n]\n")


_WRITERS: Mapping[AuditFormat, _Write] = {AuditFormat.CSV: _write_csv, AuditFormat.JSON: _write_json}
