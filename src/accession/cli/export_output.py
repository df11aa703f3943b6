"""Options that the export commands share, and writing an export with a progress bar."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, BinaryIO

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from accession.auth.audit import AuditAction, record
from accession.catalog.change_feed import count_feed
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue
from accession.cli.output import count_noun, error_console
from accession.core.errors import UserError
from accession.core.sanitize import redact_credentials, sanitize
from accession.db.engine import snapshot
from accession.exports.files import write_file_atomically
from accession.exports.formats import Format
from accession.exports.marc_validity import CorrectionReport
from accession.exports.progress import Progress as ReportProgress
from accession.exports.selection import parse_since, select_titles

InCollections = Annotated[
    list[str] | None,
    typer.Option("--collection", metavar="NAME", help="Export this collection only; repeatable."),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="Export only titles that are new, changed or removed since WHEN: a date, a time in UTC, or an "
        "age such as 7d.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="File to write: a path or an fsspec URL. It is replaced when the export is complete. "
        "Default: standard output.",
    ),
]


def export(
    export_format: Format,
    collections: Sequence[str] | None,
    since: str | None,
    output: str | None,
    options: Mapping[str, Any],
) -> None:
    """Write the selected titles, as of one snapshot, to a file or to standard output.

    Raises:
        UserError: an option is invalid, the file cannot be written, or standard output is a terminal.
    """
    if output is None and sys.stdout.isatty():
        raise UserError("An export cannot be shown on a terminal: name a file with --output, or use a pipe.")
    changed_since = None if since is None else parse_since(since)
    with open_catalogue() as session:
        target = None if output is None else redact_credentials(output)
        details = {"collections": collections or "all", "since": since, "file": target}
        record(session, command_actor(), AuditAction.EXPORT_CREATE, export_format.name, details)
    with open_catalogue(snapshot) as session:
        selection = select_titles(session, collections or (), changed_since)
        total = count_feed(session, selection)
        with _progress_bar(total) as progress, _open_output(output) as out:
            written = export_format.write(session, selection, out, options, progress)
    if output is not None:
        _print(f"Wrote {count_noun(written, 'title')} to {redact_credentials(output)}")


def print_corrections(report: CorrectionReport) -> None:
    """Print to standard error what a MARC export corrected, in how many records, and the first of them."""
    if not report.corrected_records:
        _print("All records were valid MARC 21")
        return
    _print(f"Corrected {count_noun(report.corrected_records, 'record')} to valid MARC 21:")
    for correction in report.corrections():
        more = ", ..." if correction.records > len(correction.first_titles) else ""
        titles = f"{', '.join(correction.first_titles)}{more}"
        _print(f"{correction.records:>7,}  {correction.description} ({titles})")


def _print(line: str) -> None:
    error_console.print(sanitize(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _open_output(output: str | None) -> Iterator[BinaryIO]:
    with nullcontext(sys.stdout.buffer) if output is None else write_file_atomically(output) as out:
        yield out
        out.flush()


@contextmanager
def _progress_bar(total: int) -> Iterator[ReportProgress]:
    columns = (
        TextColumn("Titles"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    is_hidden = not error_console.is_terminal
    with Progress(*columns, console=error_console, disable=is_hidden, transient=True) as progress:
        bar = progress.add_task("", total=total)
        yield lambda written: progress.update(bar, completed=written)
