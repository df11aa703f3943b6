"""Files of tables and KBART lists, for the command line, the schedule and the dashboard."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, BinaryIO

from pydantic import AfterValidator
from sqlalchemy.orm import Session

from accession.catalog.change_feed import read_feed_by_library
from accession.catalog.feed_filter import FeedFilter
from accession.core.csv_files import CsvFormat, Delimiter
from accession.exports.kbart import write_kbart
from accession.exports.options import Options, parse_options
from accession.exports.progress import Progress, report_progress
from accession.exports.tables import Column, select_columns, write_csv, write_json_lines, write_parquet
from accession.exports.templates import check_url_template


class TableOptions(Options):
    """Options of table exports: the columns in their order, all if none is named."""

    columns: tuple[str, ...] = ()

    def select_columns(self, selection: FeedFilter) -> Sequence[Column]:
        """Return the columns of an export.

        Raises:
            UserError: a column does not exist or is named twice.
        """
        return select_columns(self.columns, selection.since)

    def check(self, selection: FeedFilter) -> None:
        """Check the names of the columns."""
        self.select_columns(selection)


class CsvOptions(TableOptions):
    """Options of CSV exports, as those of `accession.core.csv_files.CsvFormat`."""

    delimiter: Delimiter = Delimiter.COMMA
    bom: bool = False


class KbartOptions(Options):
    """Options of KBART exports: URL template of a title (`exports.templates`)."""

    url_template: Annotated[str, AfterValidator(check_url_template)] | None = None


def write_csv_file(
    session: Session, selection: FeedFilter, out: BinaryIO, options: Mapping[str, Any], progress: Progress
) -> int:
    """Write the selected titles as CSV and return their number."""
    csv_options = parse_options(CsvOptions, options, "CSV")
    columns = csv_options.select_columns(selection)
    titles = report_progress(read_feed_by_library(session, selection), progress)
    return write_csv(titles, out, columns, CsvFormat(csv_options.delimiter, csv_options.bom))


def write_json_lines_file(
    session: Session, selection: FeedFilter, out: BinaryIO, options: Mapping[str, Any], progress: Progress
) -> int:
    """Write the selected titles as JSON Lines and return their number."""
    columns = parse_options(TableOptions, options, "JSON Lines").select_columns(selection)
    return write_json_lines(report_progress(read_feed_by_library(session, selection), progress), out, columns)


def write_parquet_file(
    session: Session, selection: FeedFilter, out: BinaryIO, options: Mapping[str, Any], progress: Progress
) -> int:
    """Write the selected titles as Parquet and return their number."""
    columns = parse_options(TableOptions, options, "Parquet").select_columns(selection)
    return write_parquet(report_progress(read_feed_by_library(session, selection), progress), out, columns)


def write_kbart_file(
    session: Session, selection: FeedFilter, out: BinaryIO, options: Mapping[str, Any], progress: Progress
) -> int:
    """Write the selected titles as a KBART list and return their number."""
    kbart_options = parse_options(KbartOptions, options, "KBART")
    return write_kbart(session, selection, out, url_template=kbart_options.url_template, progress=progress)
