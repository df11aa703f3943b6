"""KBART, the list of titles that knowledge bases take: NISO RP-9-2014, Phase II, the columns of monographs.

UTF-8 without a byte order mark, which would become part of the first heading; values apart by tabs, titles by
line ends, and nothing quoted, so that white space in a value is a blank. ISBNs are 13 digits without hyphens:
the practice asks for hyphens only in an ISSN.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from typing import BinaryIO

from sqlalchemy.orm import Session

from accession.catalog.change_feed import FeedFilter, FeedTitle, feed_by_name
from accession.core.vocabulary import Medium, Role
from accession.exports.changes import CHANGE, change_since
from accession.exports.links import filled_address, said_of

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
_TOLD_EVERY = 500


def file_name(collections: Sequence[str], day: date, *, only_changes: bool) -> str:
    """The name that the practice gives a list of what these collections hold, made on the day:
    `ProviderName_Region/Consortium_PackageName_YYYY-MM-DD.txt`, each without blanks and punctuation."""
    consortium = collections[0] if len(collections) == 1 else "Consortium"
    named = re.sub(r"[^\w-]|_", "", consortium)
    return f"{_PROVIDER}_{named}_{'Changes' if only_changes else 'AllTitles'}_{day.isoformat()}.txt"


def write_kbart(
    session: Session,
    wanted: FeedFilter,
    out: BinaryIO,
    *,
    url_template: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Write the titles wanted by name, each once however many collections have it; returns how many.

    `url_template` is the address of a title (`exports.links`), without one the addresses stay empty. A title
    that is not described yet is left out: the practice wants a name. With `since` a column behind those of
    the practice says what has become of each title; `wanted` should then have the removed ones. `progress`
    is told now and then how many holdings are done.
    """
    headings = HEADINGS if wanted.since is None else (*HEADINGS, CHANGE)
    out.write(_line(headings))
    written = done = 0
    for number, holdings in enumerate(feed_by_name(session, wanted), 1):
        row = _row(holdings[0], url_template)
        if row["publication_title"]:
            if wanted.since is not None:
                row[CHANGE] = change_since(wanted.since, *holdings)
            out.write(_line(row.get(heading, "") for heading in headings))
            written += 1
        done += len(holdings)
        if number % _TOLD_EVERY == 0:
            progress(done)
    progress(done)
    return written


def _row(found: FeedTitle, url_template: str | None) -> dict[str, str]:
    """What is told of a title, by heading."""
    title = found.title
    people = found.headings.people if found.headings else ()
    authors = (name for role, name in people if role == Role.AUTHOR)
    return {
        "publication_title": ": ".join(filter(None, (title.title, title.subtitle))),
        "print_identifier": "".join(title.isbns[1:2]),
        "online_identifier": "".join(title.isbns[:1]),
        "title_url": filled_address(url_template, said_of(found)) if url_template else "",
        # The practice wants the last name.
        "first_author": next(authors, "").partition(",")[0],
        "title_id": title.identifier,
        "coverage_depth": "fulltext",
        "notes": "Audiobook" if title.medium == Medium.AUDIOBOOK else "",
        "publisher_name": title.publisher or "",
        "publication_type": "monograph",
        "date_monograph_published_online": title.published or "",
        "access_type": "P",
    }


def _line(values: Iterable[str]) -> bytes:
    return ("\t".join(" ".join(value.split()) for value in values) + "\n").encode()
