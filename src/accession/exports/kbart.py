"""KBART title lists for knowledge bases: NISO RP-9-2014 (Phase II), columns of monographs.

The file is UTF-8 without a byte order mark, which would become part of the first heading. Values are
separated by tabs and never quoted, so white space in a value becomes a blank. ISBNs have 13 digits without
hyphens: the recommended practice requires hyphens only in ISSNs.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import BinaryIO

from sqlalchemy.orm import Session

from accession.catalog.change_feed import FeedTitle, read_feed_by_name
from accession.catalog.feed_filter import FeedFilter
from accession.catalog.titles import TitleView
from accession.core.names import parse_name
from accession.core.vocabulary import ContributorRole, Medium
from accession.exports.changes import CHANGE, change_since
from accession.exports.progress import Progress
from accession.exports.templates import fill_title_url, placeholder_values

HEADINGS = (
    "publication_title",
    "print_identifier",
    "online_identifier",
    "date_first_issue_online",
    "num_first_vol_online",
    "num_first_issue_online",
    "date_last_issue_online",
    "num_last_vol_online",
    "num_last_issue_online",
    "title_url",
    "first_author",
    "title_id",
    "embargo_info",
    "coverage_depth",
    "notes",
    "publisher_name",
    "publication_type",
    "date_monograph_published_print",
    "date_monograph_published_online",
    "monograph_volume",
    "monograph_edition",
    "first_editor",
    "parent_publication_title_id",
    "preceding_publication_title_id",
    "access_type",
)
_PROVIDER = "cloudLibrary"
_PROGRESS_INTERVAL = 500


def file_name(collections: Sequence[str], day: date, *, only_changes: bool) -> str:
    """Return the file name that the recommended practice defines for a list of these collections.

    The form is `ProviderName_Region/Consortium_PackageName_YYYY-MM-DD.txt`, with neither blanks nor
    punctuation in each part.
    """
    consortium = collections[0] if len(collections) == 1 else "Consortium"
    consortium = re.sub(r"[^\w-]|_", "", consortium)
    return f"{_PROVIDER}_{consortium}_{'Changes' if only_changes else 'AllTitles'}_{day.isoformat()}.txt"


def write_kbart(
    session: Session,
    selection: FeedFilter,
    out: BinaryIO,
    *,
    url_template: str | None = None,
    progress: Progress = lambda _: None,
) -> int:
    """Write the selected titles sorted by name, each once for all collections, and return their number.

    Titles without metadata are omitted, because the recommended practice requires a name. If the selection
    has `since`, an additional last column contains the kind of change; the selection should then include
    removed titles.

    Args:
        session: Database session.
        selection: Titles to write.
        out: Binary stream.
        url_template: URL of a title (`exports.templates`), by default that of the settings.
        progress: Called with the number of holdings done.
    """
    headings = HEADINGS if selection.since is None else (*HEADINGS, CHANGE)
    out.write(_line(headings))
    written = done = 0
    for number, holdings in enumerate(read_feed_by_name(session, selection), 1):
        row = _row(holdings[0], url_template)
        if row["publication_title"]:
            if selection.since is not None:
                row[CHANGE] = change_since(selection.since, *holdings)
            out.write(_line(row.get(heading, "") for heading in headings))
            written += 1
        done += len(holdings)
        if number % _PROGRESS_INTERVAL == 0:
            progress(done)
    progress(done)
    return written


def _row(entry: FeedTitle, url_template: str | None) -> dict[str, str]:
    title = entry.title
    return {
        "publication_title": ": ".join(filter(None, (title.title, title.subtitle))),
        "print_identifier": "".join(title.isbns[1:2]),
        "online_identifier": "".join(title.isbns[:1]),
        "title_url": fill_title_url(url_template, placeholder_values(entry)),
        "first_author": _first_name(entry, ContributorRole.AUTHOR),
        "title_id": title.identifier,
        "coverage_depth": "fulltext",
        "notes": "; ".join(_notes(title)),
        "publisher_name": title.publisher or "",
        "publication_type": "monograph",
        "date_monograph_published_online": title.published or "",
        "first_editor": _first_name(entry, ContributorRole.EDITOR),
        "access_type": "P",
    }


def _notes(title: TitleView) -> Iterator[str]:
    if title.medium == Medium.AUDIOBOOK:
        yield "Audiobook"
    if title.on_order_until is not None:
        yield f"On order until {title.on_order_until}"


def _first_name(entry: FeedTitle, role: ContributorRole) -> str:
    """Return the last name of the first contributor in a role, as the recommended practice asks."""
    people = entry.headings.people if entry.headings else ()
    name = parse_name(next((name for each, name in people if each == role), ""))
    return name.display_name if name.is_organisation else name.name.partition(",")[0]


def _line(values: Iterable[str]) -> bytes:
    return ("\t".join(" ".join(value.split()) for value in values) + "\n").encode()
