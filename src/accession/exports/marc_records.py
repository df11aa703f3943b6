"""MARC 21 records for library systems: the vendor's record of a title, completed by the export profile."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from accession.catalog.change_feed import FeedTitle
from accession.core.marc21 import Field, Marc21Record, control_field, data_field, parse_marc21
from accession.exports.changes import Change, change_since
from accession.exports.marc_from_metadata import build_record, complete_names
from accession.exports.marc_profile import LocalField, Profile
from accession.exports.marc_validity import CorrectionReport, correct_record
from accession.exports.templates import fill_text, fill_title_url, placeholder_values

# Replaced by values of this export.
_REPLACED_TAGS = frozenset({"001", "003", "005"})
_ACCESS_INDICATORS = b"40"
_DEFAULT_LINK = (("3", "cloudLibrary"),)
_URL = re.compile(rb"\x1fu([^\x1f]+)")
_MATERIALS = re.compile(rb"\x1f3([^\x1f]+)")
# Materials that accompany a title: their links stay beside the link to its page.
_ACCOMPANYING = re.compile(rb"cover|image|icon|excerpt|sample", re.IGNORECASE)
_RELATED_RESOURCE = b"2"
# Leader/05, record status.
_NEW, _CHANGED, _DELETED = "ncd"
_STATUSES = {Change.NEW: _NEW, Change.CHANGED: _CHANGED, Change.REMOVED: _DELETED}


def build_export_record(
    holdings: Sequence[FeedTitle],
    profile: Profile,
    *,
    availability: bool = False,
    since: datetime | None = None,
    report: CorrectionReport | None = None,
) -> Marc21Record:
    """Return a title's record as a library system can load it, in UTF-8.

    It is the vendor's record, or one built from the metadata if the vendor sent none. Its contributors are
    completed from the metadata. 001 is the vendor's id, 003 the organisation code of the profile, 005 the
    time of the last modification. The link to the title's page, 856 40, occurs once, whatever indicators the
    vendor's links have. Then follow availability (852) on request and the
    local fields of the profile. The record status (leader/05) is deleted for removed titles, changed if the
    title existed before `since`, and new otherwise.

    With the holdings of several libraries, 856 40, 852 and the local fields occur once for each library that
    still holds the title; equal fields occur once.

    The record is valid MARC 21, whatever the vendor sent: see `marc_validity`. Corrections are added to
    `report`.
    """
    held = [entry for entry in holdings if not entry.is_removed] or holdings
    record, corrections = _vendor_record(held[0], profile)
    if report is not None:
        report.add(held[0].title.identifier, corrections)
    values = [placeholder_values(entry) for entry in held]
    linked_records = _linked_records(held, record, profile)
    access = [
        _access_field(each, profile, filled) for each, filled in zip(linked_records, values, strict=True)
    ]
    local = [dict.fromkeys(_local_field(field, each) for each in values) for field in profile.fields]
    modified_at = max(entry.modified_at for entry in holdings)
    fields = [
        control_field("001", held[0].title.identifier),
        control_field("003", profile.organization),
        ("005", f"{modified_at:%Y%m%d%H%M%S}.0".encode()),
        *(each for each in record.fields if each[0] not in _REPLACED_TAGS and not _is_access(each)),
        *(map(_availability_field, held) if availability else ()),
        *dict.fromkeys(access),
        *(field for each in local for field in each if field is not None),
    ]
    leader = record.leader
    return Marc21Record(f"{leader[:5]}{_record_status(holdings, since)}{leader[6:]}", fields)


def _linked_records(
    held: Sequence[FeedTitle], first: Marc21Record, profile: Profile
) -> Sequence[Marc21Record]:
    """Return the record from which the link of each holding is taken; `first` is that of the first one."""
    if profile.url_template is not None:
        # The links do not depend on the records, of which building each takes most of the time.
        return [first] * len(held)
    return [first, *(_vendor_record(entry, profile)[0] for entry in held[1:])]


def _vendor_record(entry: FeedTitle, profile: Profile) -> tuple[Marc21Record, Sequence[str]]:
    if entry.marc is not None:
        record = parse_marc21(entry.marc)
        fields = record.fields if entry.headings is None else complete_names(record.fields, entry.headings)
        return correct_record(Marc21Record(record.leader, fields), entry)
    return correct_record(build_record(entry, profile.organization), entry)


def _record_status(holdings: Sequence[FeedTitle], since: datetime | None) -> str:
    if since is None:
        return _DELETED if all(entry.is_removed for entry in holdings) else _NEW
    return _STATUSES[change_since(since, *holdings)]


def _is_access(field: Field) -> bool:
    """Return whether a field is a link to the title itself, and not to its cover or another resource."""
    tag, content = field
    if tag != "856" or content[1:2] == _RELATED_RESOURCE:
        return False
    materials = _MATERIALS.search(content)
    return materials is None or _ACCOMPANYING.search(materials[1]) is None


def _access_field(vendor_record: Marc21Record, profile: Profile, values: Mapping[str, str]) -> Field:
    vendor_field = None if profile.url_template is not None else _vendor_access(vendor_record)
    if vendor_field is None:
        url = fill_title_url(profile.url_template, values)
    elif profile.link:
        url = _URL.findall(vendor_field[1])[0].decode()
    else:
        return vendor_field
    link = profile.link or _DEFAULT_LINK
    # $3 (materials specified) comes before $u.
    materials = [subfield for subfield in link if subfield[0] == "3"]
    others = [subfield for subfield in link if subfield[0] != "3"]
    return data_field("856", "40", *materials, ("u", url), *others)


def _vendor_access(record: Marc21Record) -> Field | None:
    """Return the vendor's link to the title as 856 40; None without any URL."""
    links = [content for _, content in filter(_is_access, record.fields) if _URL.search(content)]
    if not links:
        return None
    content = next((each for each in links if each[:2] == _ACCESS_INDICATORS), links[0])
    return "856", _ACCESS_INDICATORS + content[2:]


def _availability_field(entry: FeedTitle) -> Field:
    title = entry.title
    owned, available = title.licenses_owned, title.licenses_available
    copies = "copy" if owned == 1 else "copies"
    text = f"{available} of {owned} {copies} available"
    if title.on_order_until is not None:
        text = f"{owned} {copies} on order until {title.on_order_until}"
    return data_field(
        "852",
        "  ",
        ("b", title.collection),
        ("x", f"owned: {owned}"),
        ("x", f"available: {available}"),
        ("x", f"reserved: {title.licenses_reserved}"),
        ("x", f"holds: {title.patrons_in_hold_queue}"),
        ("z", text),
    )


def _local_field(field: LocalField, values: Mapping[str, str]) -> Field | None:
    subfields = [
        (code, text) for code, value in field.subfields if (text := fill_text(value, values).strip())
    ]
    return data_field(field.tag, field.indicators, *subfields) if subfields else None
