"""`accession export kbart`, `csv`, `jsonl` and `parquet`: the catalogue as tables."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.orm import Session

from accession.catalog.collections import find_collection
from accession.catalog.feed import FeedFilter, FeedTitle, count_feed, feed
from accession.cli.attach import catalogue
from accession.cli.output import counted, error_console, print_table
from accession.clock import moment_of, utc_now
from accession.errors import UserError
from accession.exports.files import joined, replaced, shown
from accession.exports.kbart import file_name, write_kbart
from accession.exports.links import usable_address
from accession.exports.tables import (
    COLUMNS,
    Column,
    change_column,
    chosen_columns,
    require_pyarrow,
    write_csv,
    write_json_lines,
    write_parquet,
)
from accession.harmless import harmless

Advance = Callable[[int], None]

InCollections = Annotated[
    list[str] | None,
    typer.Option("--collection", metavar="NAME", help="Only of this collection; give it again for others."),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="WHEN", help="Only what is new, changed or removed since this day or moment (UTC)."
    ),
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="NAME,...",
        help="These columns, in this order. Default: all. See: accession export columns",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="FILE",
        help="Where to write it: a path or a URL. What is there is replaced when all is written. "
        "Default: standard output.",
    ),
]


def export_columns() -> None:
    """List the columns that csv, jsonl and parquet can have."""
    print_table(
        [*COLUMNS, change_column(utc_now())],
        [
            ("Column", lambda c: c.name),
            ("Type", lambda c: c.kind.value),
            ("What it is", lambda c: c.meaning),
        ],
        when_empty="",
    )


def export_csv(
    collection: InCollections = None,
    since: Since = None,
    columns: Columns = None,
    output: Output = None,
    bom: Annotated[
        bool, typer.Option("--bom", help="Begin with a byte order mark, by which Excel knows UTF-8.")
    ] = False,
) -> None:
    """Export titles as CSV: UTF-8, names of columns first, no cell a formula."""
    _not_to_a_terminal(output)
    _export_table(
        lambda titles, out, chosen: write_csv(titles, out, chosen, bom=bom),
        collection,
        since,
        columns,
        output,
    )


def export_jsonl(
    collection: InCollections = None, since: Since = None, columns: Columns = None, output: Output = None
) -> None:
    """Export titles as JSON Lines: an object a line, with the fields that docs/json.md lists."""
    _export_table(write_json_lines, collection, since, columns, output)


def export_parquet(
    collection: InCollections = None, since: Since = None, columns: Columns = None, output: Output = None
) -> None:
    """Export titles as Parquet with typed columns; needs pyarrow, the extra `parquet`."""
    require_pyarrow()
    _not_to_a_terminal(output)
    _export_table(write_parquet, collection, since, columns, output)


def export_kbart(
    collection: InCollections = None,
    since: Since = None,
    url_template: Annotated[
        str | None,
        typer.Option(
            "--url-template",
            metavar="URL",
            help="The address of a title, {identifier} in the place of its id.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Where to write it: a path or a URL; a folder for a file named as KBART wants. "
            "Default: standard output.",
        ),
    ] = None,
) -> None:
    """Export titles as KBART, which knowledge bases take: each once, by name."""
    _not_to_a_terminal(output)
    try:
        template = None if url_template is None else usable_address(url_template)
    except ValueError as error:
        raise UserError(f'The address "{url_template}" cannot be used: {error}.') from None
    if output is not None and Path(output).is_dir():
        output = joined(output, file_name(collection or (), utc_now().date(), only_changes=since is not None))

    def write(session: Session, wanted: FeedFilter, out: BinaryIO, advance: Advance) -> int:
        return write_kbart(session, wanted, out, url_template=template, progress=advance)

    _export(write, collection, _moment(since), output)


def _export_table(
    write: Callable[[Iterable[FeedTitle], BinaryIO, Sequence[Column]], int],
    collections: Sequence[str] | None,
    since: str | None,
    columns: str | None,
    output: str | None,
) -> None:
    moment = _moment(since)
    chosen = chosen_columns([] if columns is None else [name.strip() for name in columns.split(",")], moment)

    def write_all(session: Session, wanted: FeedFilter, out: BinaryIO, advance: Advance) -> int:
        return write(_told(feed(session, wanted), advance), out, chosen)

    _export(write_all, collections, moment, output)


def _told(titles: Iterable[FeedTitle], advance: Advance) -> Iterator[FeedTitle]:
    for title in titles:
        yield title
        advance(1)


def _export(
    write: Callable[[Session, FeedFilter, BinaryIO, Advance], int],
    collections: Sequence[str] | None,
    since: datetime | None,
    output: str | None,
) -> None:
    with snapshot() as session:
        ids = tuple(find_collection(session, name).id for name in collections or ())
        wanted = FeedFilter(ids or None, since=since, with_removed=since is not None)
        with _target(output) as out, _progress(count_feed(session, wanted)) as advance:
            written = write(session, wanted, out, advance)
            out.flush()
    if output is not None:
        said = harmless(f"{counted(written, 'title')} in {shown(output)}.")
        error_console.print(said, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def snapshot() -> Iterator[Session]:
    """The catalogue as it is at one moment, however long it takes to read, and only to be read."""
    with catalogue() as session:
        session.connection(
            execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        )
        yield session


def _target(output: str | None) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdout.buffer) if output is None else replaced(output)


@contextmanager
def _progress(total: int) -> Iterator[Advance]:
    """A bar on standard error, where a person sees it."""
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("titles"),
        TimeRemainingColumn(compact=True),
    )
    seen = error_console.is_terminal
    with Progress(*columns, console=error_console, transient=True, disable=not seen) as progress:
        bar = progress.add_task("", total=total)
        yield lambda number: progress.advance(bar, number)


def _not_to_a_terminal(output: str | None) -> None:
    if output is None and sys.stdout.isatty():
        raise UserError(
            "The export is not shown on a terminal, which its texts could command: "
            "name a file with --output, or pipe it on."
        )


def _moment(since: str | None) -> datetime | None:
    try:
        return None if since is None else moment_of(since)
    except ValueError:
        raise UserError(
            f'"{since}" is no day or moment: give --since as 2024-05-01 or 2024-05-01T12:00:00Z.'
        ) from None
