"""Controlled vocabularies of title metadata and circulation events."""

from enum import StrEnum


class IdentifierType(StrEnum):
    """Type of an identifier."""

    BIBLIOTHECA = "Bibliotheca ID"
    ISBN = "ISBN"


class Medium(StrEnum):
    """Medium of a title."""

    BOOK = "book"
    AUDIOBOOK = "audiobook"


class Format(StrEnum):
    """File format of a title."""

    EPUB = "epub"
    EPUB3 = "epub3"
    PDF = "pdf"
    MP3 = "mp3"


class ContributorRole(StrEnum):
    """Role of a contributor."""

    AUTHOR = "author"
    NARRATOR = "narrator"


class SubjectScheme(StrEnum):
    """Scheme of a subject heading."""

    BISAC = "BISAC"
    """A full BISAC heading, such as `FICTION / Fantasy / Epic`."""
    LABEL = "label"
    """A label of the vendor, such as `Mystery & Detective`."""


class LinkRel(StrEnum):
    """Relation of a link to its title."""

    COVER = "cover"
    THUMBNAIL = "thumbnail"


class EventType(StrEnum):
    """Type of a circulation event: what happened to one copy, or to the holds on a title."""

    PURCHASE = "PURCHASE"
    REMOVED = "REMOVED"
    CHECKOUT = "CHECKOUT"
    CHECKIN = "CHECKIN"
    HOLD = "HOLD"
    RESERVED = "RESERVED"
