"""TODO."""

from enum import StrEnum


class IdentifierType(StrEnum):
    """Kinds of identifier."""

    BIBLIOTHECA = "Bibliotheca ID"
    ISBN = "ISBN"


class Medium(StrEnum):
    """How a title is taken in."""

    BOOK = "book"
    AUDIOBOOK = "audiobook"


class Format(StrEnum):
    """The file format of a title."""

    EPUB = "epub"
    EPUB3 = "epub3"
    PDF = "pdf"
    MP3 = "mp3"


class Role(StrEnum):
    """What a contributor did."""

    AUTHOR = "author"
    NARRATOR = "narrator"


class SubjectScheme(StrEnum):
    """Where a subject's wording comes from."""

    BISAC = "BISAC"
    """A whole BISAC heading, as `FICTION / Fantasy / Epic`."""
    LABEL = "label"
    """A vendor's plain label, as `Mystery & Detective`."""


class LinkRel(StrEnum):
    """What a link leads to."""

    COVER = "cover"
    THUMBNAIL = "thumbnail"


class EventType(StrEnum):
    """What can happen to one copy of a title, or to the patrons who wait for one."""

    PURCHASE = "PURCHASE"
    REMOVED = "REMOVED"
    CHECKOUT = "CHECKOUT"
    CHECKIN = "CHECKIN"
    HOLD = "HOLD"
    RESERVED = "RESERVED"
