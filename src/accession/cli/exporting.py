"""What every command of `accession export` does: one moment of the catalogue, written whole, with a bar."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, BinaryIO

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from accession.catalog.change_feed import count_feed
from accession.cli.attach import catalogue
from accession.cli.output import counted, error_console
from accession.core.errors import UserError
from accession.core.sanitize import harmless
from accession.db.engine import snapshot
from accession.exports.files import replaced, shown
from accession.exports.formats import Format
from accession.exports.formats import Progress as Told
from accession.exports.wanted import since_of, wanted_titles

app = typer.Typer(no_args_is_help=True, help="Write the catalogue to files for other systems.")

InCollections = Annotated[
    list[str] | None,
    typer.Option("--collection", metavar="NAME", help="Only of this collection; may be given several times."),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="Only what is new, changed or removed since a date, a moment (UTC), or a span, as 7d.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="A path or a URL of fsspec, replaced when all is written. Default: standard output.",
    ),
]


def export(
    made: Format,
    collections: Sequence[str] | None,
    since: str | None,
    output: str | None,
    options: Mapping[str, Any],
) -> None:
    """Write the titles wanted in the format, as they are at one moment, to the file or to standard output.

    Raises `UserError` for what cannot be used, and where the output would be a terminal.
    """
    if output is None and sys.stdout.isatty():
        raise UserError("A terminal cannot show this: name a file with --output, or send it into a pipe.")
    moment = None if since is None else since_of(since)
    with catalogue(snapshot) as session:
        wanted = wanted_titles(session, collections or (), moment)
        with _bar(count_feed(session, wanted)) as progress, _opened(output) as out:
            written = made.write(session, wanted, out, options, progress)
    if output is not None:
        said = f"{counted(written, 'title')} in {shown(output)}"
        error_console.print(harmless(said), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _opened(output: str | None) -> Iterator[BinaryIO]:
    with nullcontext(sys.stdout.buffer) if output is None else replaced(output) as out:
        yield out
        out.flush()


@contextmanager
def _bar(total: int) -> Iterator[Told]:
    columns = (
        TextColumn("Titles"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    hidden = not error_console.is_terminal
    with Progress(*columns, console=error_console, disable=hidden, transient=True) as progress:
        bar = progress.add_task("", total=total)
        yield lambda written: progress.update(bar, completed=written)
