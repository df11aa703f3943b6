"""KBART, the list of titles that knowledge bases take: NISO RP-9-2014, Phase II, the columns of monographs.

UTF-8 without a byte order mark, which would become part of the first heading; values apart by tabs, titles by
line ends, and nothing quoted, so that white space in a value is a blank. ISBNs are 13 digits without hyphens:
the practice asks for hyphens only in an ISSN.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import BinaryIO
from urllib.parse import quote

from accession.catalog.data import Medium
from accession.catalog.feed import FeedTitle
from accession.exports.changes import change_since

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
CHANGE = "change"
PROVIDER = "cloudLibrary"
_BATCH = 1000
