"""Files of MARC 21 records: binary MARC 21, and MARCXML collections."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy.orm import Session

from accession.catalog.change_feed import read_feed_by_title
from accession.catalog.feed_filter import FeedFilter
from accession.core.marc21 import MARC_NAMESPACE, Marc21Record
from accession.exports.marc_profile import Profile, parse_profile, read_profile
from accession.exports.marc_records import build_export_record
from accession.exports.marc_validity import CorrectionReport
from accession.exports.options import Options, parse_options
from accession.exports.progress import Progress, report_progress

_START = f'<?xml version="1.0" encoding="UTF-8"?>\n<collection xmlns="{MARC_NAMESPACE}">\n'.encode()
_END = b"</collection>\n"


class MarcOptions(Options):
    """Options of MARC exports; `url_template` takes precedence over that of the profile."""

    profile: Path | None = None
    url_template: str | None = None
    availability: bool = False

    def load_profile(self) -> Profile:
        """Return the profile, with the URL template of the options.

        Raises:
            UserError: the profile or the template is invalid.
        """
        profile = read_profile(self.profile) if self.profile is not None else Profile()
        if self.url_template is None:
            return profile
        return parse_profile({**dict(profile), "url_template": self.url_template}, "URL template")

    def check(self, selection: FeedFilter) -> None:
        """Check the profile and the URL template."""
        self.load_profile()


def write_marc21(
    session: Session,
    selection: FeedFilter,
    out: BinaryIO,
    options: Mapping[str, Any],
    progress: Progress,
    report: CorrectionReport | None = None,
) -> int:
    """Write the selected titles as binary MARC 21 and return their number; `report` gets the corrections."""
    records = _build_records(session, selection, options, report)
    return _write(out, report_progress((record.as_marc21() for record in records), progress))


def write_marcxml(
    session: Session,
    selection: FeedFilter,
    out: BinaryIO,
    options: Mapping[str, Any],
    progress: Progress,
    report: CorrectionReport | None = None,
) -> int:
    """Write the selected titles as a MARCXML collection and return their number; see `write_marc21`."""
    records = _build_records(session, selection, options, report)
    lines = (record.as_marcxml(with_namespace=False) + b"\n" for record in records)
    out.write(_START)
    written = _write(out, report_progress(lines, progress))
    out.write(_END)
    return written


def _write(out: BinaryIO, records: Iterable[bytes]) -> int:
    written = 0
    for record in records:
        out.write(record)
        written += 1
    return written


def _build_records(
    session: Session, selection: FeedFilter, options: Mapping[str, Any], report: CorrectionReport | None
) -> Iterator[Marc21Record]:
    # Not a generator function: invalid options are rejected before anything is written.
    marc_options = parse_options(MarcOptions, options, "MARC")
    profile = marc_options.load_profile()
    return (
        build_export_record(
            holdings,
            profile,
            availability=marc_options.availability,
            since=selection.since,
            report=report,
        )
        for holdings in read_feed_by_title(session, selection, with_marc=True)
    )
