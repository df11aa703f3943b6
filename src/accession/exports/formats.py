"""The forms in which the catalogue leaves as a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from sqlalchemy.orm import Session

from accession.catalog.feed import FeedFilter
from accession.errors import UserError
from accession.exports.marc_files import write_marc21, write_marcxml

Progress = Callable[[int], None]


class Write(Protocol):
    """Writes the titles wanted to `out`, tells `progress` now and then how many it has written, and returns
    how many there were. Options that cannot be used raise `UserError` before anything is written."""

    def __call__(
        self,
        session: Session,
        wanted: FeedFilter,
        out: BinaryIO,
        options: Mapping[str, Any],
        progress: Progress,
    ) -> int: ...


@dataclass(frozen=True)
class Format:
    """A form of file: `label` is for people, `suffix` with its dot."""

    name: str
    label: str
    suffix: str
    media_type: str
    write: Write


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format("marc21", "MARC 21", ".mrc", "application/marc", write_marc21),
        Format("marcxml", "MARCXML", ".xml", "application/marcxml+xml", write_marcxml),
    )
}


def find_format(name: str) -> Format:
    """The format of this name; raises `UserError` when there is none."""
    found = FORMATS.get(name)
    if found is None:
        raise UserError(f'There is no format "{name}": choose among {", ".join(FORMATS)}.')
    return found
