"""Whole files of tables and KBART lists, as the schedule and the dashboard ask for them, too."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, BinaryIO

from pydantic import AfterValidator
from sqlalchemy.orm import Session

from accession.catalog.change_feed import FeedFilter, FeedTitle, feed
from accession.exports.kbart import write_kbart
from accession.exports.links import usable_address
from accession.exports.options import Options, chosen
from accession.exports.tables import Column, chosen_columns, write_csv, write_json_lines, write_parquet

Progress = Callable[[int], None]

_TOLD_EVERY = 500


class TableOptions(Options):
    """The columns, in their order; all of them when none is named."""

    columns: tuple[str, ...] = ()


class CsvOptions(TableOptions):
    """Also whether the file begins with a byte order mark."""

    bom: bool = False


class KbartOptions(Options):
    """The address of a title, as `exports.links` has it."""

    url_template: Annotated[str, AfterValidator(usable_address)] | None = None


def write_csv_file(
    session: Session, wanted: FeedFilter, out: BinaryIO, options: Mapping[str, Any], progress: Progress
) -> int:
    """Write the titles wanted as CSV; how many."""
    said = chosen(CsvOptions, options, "CSV")
    titles, columns = _chosen_titles(session, wanted, said, progress)
    return write_csv(titles, out, columns, bom=said.bom)


def write_json_lines_file(
    session: Session, wanted: FeedFilter, out: BinaryIO, options: Mapping[str, Any], progress: Progress
) -> int:
    """Write the titles wanted as JSON Lines; how many."""
    said = chosen(TableOptions, options, "JSON Lines")
    titles, columns = _chosen_titles(session, wanted, said, progress)
    return write_json_lines(titles, out, columns)


def write_parquet_file(
    session: Session, wanted: FeedFilter, out: BinaryIO, options: Mapping[str, Any], progress: Progress
) -> int:
    """Write the titles wanted as Parquet; how many."""
    said = chosen(TableOptions, options, "Parquet")
    titles, columns = _chosen_titles(session, wanted, said, progress)
    return write_parquet(titles, out, columns)


def write_kbart_file(
    session: Session, wanted: FeedFilter, out: BinaryIO, options: Mapping[str, Any], progress: Progress
) -> int:
    """Write the titles wanted as a KBART list; how many."""
    said = chosen(KbartOptions, options, "KBART")
    return write_kbart(session, wanted, out, url_template=said.url_template, progress=progress)


def _chosen_titles(
    session: Session, wanted: FeedFilter, said: TableOptions, progress: Progress
) -> tuple[Iterable[FeedTitle], Sequence[Column]]:
    columns = chosen_columns(said.columns, wanted.since)
    return _told(feed(session, wanted), progress), columns


def _told(titles: Iterable[FeedTitle], progress: Progress) -> Iterator[FeedTitle]:
    done = 0
    for title in titles:
        yield title
        done += 1
        if done % _TOLD_EVERY == 0:
            progress(done)
    progress(done)
