"""Whole files of MARC 21: binary, one record after another, or a MARCXML collection."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy.orm import Session

from accession.catalog.change_feed import FeedFilter, feed
from accession.exports.iso2709 import MARC_NAMESPACE, MarcParts
from accession.exports.marc import Profile, loadable_parts, made_profile, read_profile
from accession.exports.options import Options, chosen

_HEAD = f'<?xml version="1.0" encoding="UTF-8"?>\n<collection xmlns="{MARC_NAMESPACE}">\n'.encode()
_FOOT = b"</collection>\n"
_TOLD_EVERY = 500


class MarcOptions(Options):
    """What can be chosen of a MARC export; `url_template` wins over that of the profile."""

    profile: Path | None = None
    url_template: str | None = None
    availability: bool = False

    def made_profile(self) -> Profile:
        """The profile with what was chosen beside it. Raises `UserError` when it cannot be used."""
        profile = read_profile(self.profile) if self.profile is not None else Profile()
        if self.url_template is None:
            return profile
        return made_profile({**dict(profile), "url_template": self.url_template}, "URL template")


def write_marc21(
    session: Session,
    wanted: FeedFilter,
    out: BinaryIO,
    options: Mapping[str, Any],
    progress: Callable[[int], None],
) -> int:
    """Write the records of the titles wanted as binary MARC 21; how many."""
    records = _records(session, wanted, options)
    return _write(out, (record.as_marc21() for record in records), progress)


def write_marcxml(
    session: Session,
    wanted: FeedFilter,
    out: BinaryIO,
    options: Mapping[str, Any],
    progress: Callable[[int], None],
) -> int:
    """Write the records of the titles wanted as one MARCXML collection; how many."""
    records = _records(session, wanted, options)
    out.write(_HEAD)
    written = _write(out, (record.as_marcxml(root=False) + b"\n" for record in records), progress)
    out.write(_FOOT)
    return written


def _write(out: BinaryIO, records: Iterable[bytes], progress: Callable[[int], None]) -> int:
    written = 0
    for written, record in enumerate(records, 1):
        out.write(record)
        if written % _TOLD_EVERY == 0:
            progress(written)
    progress(written)
    return written


def _records(session: Session, wanted: FeedFilter, options: Mapping[str, Any]) -> Iterator[MarcParts]:
    """Options are refused here and now, before anything is written."""
    said = chosen(MarcOptions, options, "MARC")
    profile = said.made_profile()
    return (
        loadable_parts(found, profile, availability=said.availability, since=wanted.since)
        for found in feed(session, wanted, with_marc=True)
    )
