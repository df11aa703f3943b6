"""MARC 21 records for library systems: the vendor's record of a title, completed by the export profile."""

import re
from collections.abc import Mapping
from datetime import datetime

from accession.catalog.change_feed import FeedTitle
from accession.core.marc21 import Field, Marc21Record, control_field, data_field, parse_marc21
from accession.exports.marc_from_metadata import build_record
from accession.exports.marc_profile import LocalField, Profile
from accession.exports.templates import fill_text, fill_url, placeholder_values

# Replaced by values of this export.
_REPLACED_TAGS = frozenset({"001", "003", "005"})
_ACCESS_INDICATORS = b"40"
_DEFAULT_LINK = (("3", "cloudLibrary"),)
_URL = re.compile(rb"\x1fu([^\x1f]+)")
# Leader/05, record status.
_NEW, _CHANGED, _DELETED = "ncd"


def build_export_record(
    entry: FeedTitle, profile: Profile, *, availability: bool = False, since: datetime | None = None
) -> Marc21Record:
    """Return a title's record as a library system can load it, in UTF-8.

    It is the vendor's record, or one built from the metadata if the vendor sent none, with these changes: 001
    is the vendor's id, 003 the organisation code of the profile, 005 the time of the last modification, and
    856 40 occurs once. Then follow availability (852) on request and the local fields of the profile. The
    record status (leader/05) is deleted for removed titles, changed if the title existed before `since`, and
    new otherwise.
    """
    if entry.marc is not None:
        vendor_record = parse_marc21(entry.marc)
    else:
        vendor_record = build_record(entry, profile.organization)
    values = placeholder_values(entry)
    access = _access_field(vendor_record, profile, values)
    fields = [
        control_field("001", entry.title.identifier),
        control_field("003", profile.organization),
        ("005", f"{entry.modified_at:%Y%m%d%H%M%S}.0".encode()),
        *(each for each in vendor_record.fields if each[0] not in _REPLACED_TAGS and not _is_access(each)),
        *([_availability_field(entry)] if availability else []),
        *([access] if access else []),
        *(filled for field in profile.fields if (filled := _local_field(field, values)) is not None),
    ]
    leader = vendor_record.leader
    return Marc21Record(f"{leader[:5]}{_record_status(entry, since)}{leader[6:]}", fields)


def _record_status(entry: FeedTitle, since: datetime | None) -> str:
    if entry.is_removed:
        return _DELETED
    return _CHANGED if since is not None and entry.created_at < since else _NEW


def _is_access(field: Field) -> bool:
    return field[0] == "856" and field[1][:2] == _ACCESS_INDICATORS


def _access_field(vendor_record: Marc21Record, profile: Profile, values: Mapping[str, str]) -> Field | None:
    if profile.url_template is not None:
        url = fill_url(profile.url_template, values)
    else:
        vendor_field = next(filter(_is_access, vendor_record.fields), None)
        match = None if vendor_field is None else _URL.search(vendor_field[1])
        if match is None or not profile.link:
            return vendor_field
        url = match[1].decode()
    link = profile.link or _DEFAULT_LINK
    # $3 (materials specified) comes before $u.
    materials = [subfield for subfield in link if subfield[0] == "3"]
    others = [subfield for subfield in link if subfield[0] != "3"]
    return data_field("856", "40", *materials, ("u", url), *others)


def _availability_field(entry: FeedTitle) -> Field:
    title = entry.title
    owned, available = title.licenses_owned, title.licenses_available
    return data_field(
        "852",
        "  ",
        ("b", title.collection),
        ("x", f"owned: {owned}"),
        ("x", f"available: {available}"),
        ("x", f"reserved: {title.licenses_reserved}"),
        ("x", f"holds: {title.patrons_in_hold_queue}"),
        ("z", f"{available} of {owned} {'copy' if owned == 1 else 'copies'} available"),
    )


def _local_field(field: LocalField, values: Mapping[str, str]) -> Field | None:
    subfields = [
        (code, text) for code, value in field.subfields if (text := fill_text(value, values).strip())
    ]
    return data_field(field.tag, field.indicators, *subfields) if subfields else None
