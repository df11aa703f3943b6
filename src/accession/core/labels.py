"""Labels, for people, of the codes in the metadata of titles."""

from collections.abc import Mapping

from accession.core.languages import language_name
from accession.core.vocabulary import Audience, Format

_LABELS: Mapping[str, Mapping[str, str]] = {
    "format": {
        Format.EPUB: "EPUB e-book",
        Format.EPUB3: "EPUB 3 e-book",
        Format.PDF: "PDF e-book",
        Format.MP3: "Audiobook",
    },
    "audience": {
        Audience.CHILDREN: "Children",
        Audience.YOUNG_ADULT: "Young adults",
        Audience.GENERAL: "General",
    },
    "availability": {
        "available": "Available",
        "on_hold": "On loan or on hold",
        "on_order": "On order",
        "withdrawn": "Withdrawn",
    },
}


def value_label(field: str, value: str) -> str:
    """Return the label of a value of a field, such as `format`; a value without one is returned unchanged."""
    return language_name(value) if field == "language" else _LABELS.get(field, {}).get(value, value)
