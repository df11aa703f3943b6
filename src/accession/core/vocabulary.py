"""Controlled vocabularies of title metadata and circulation events."""

from enum import StrEnum
from typing import Self


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
    """Role of a contributor, named by its term in the MARC code list for relators.

    The members are listed in the order in which titles show them.

    Attributes:
        code: Code of the term in that list.
        opds_property: Property of the Readium Web Publication Manifest, which OPDS 2 uses.
    """

    code: str
    opds_property: str

    # The code has a default for type checkers: `ContributorRole("author")` looks a member up.
    def __new__(cls, term: str, code: str = "", opds_property: str = "contributor") -> Self:
        """Create a member whose value is the term."""
        member = str.__new__(cls, term)
        member._value_ = term
        member.code = code
        member.opds_property = opds_property
        return member

    AUTHOR = "author", "aut", "author"
    EDITOR = "editor", "edt", "editor"
    TRANSLATOR = "translator", "trl", "translator"
    ILLUSTRATOR = "illustrator", "ill", "illustrator"
    NARRATOR = "narrator", "nrt", "narrator"
    ARTIST = "artist", "art", "artist"
    PENCILLER = "penciller", "pnc", "penciler"
    INKER = "inker", "ink", "inker"
    COLORIST = "colorist", "clr", "colorist"
    LETTERER = "letterer", "ltr", "letterer"
    PHOTOGRAPHER = "photographer", "pht"
    COVER_DESIGNER = "cover designer", "cov"
    FOREWORD = "writer of foreword", "wfw"
    PREFACE = "writer of preface", "wpr"
    INTRODUCTION = "writer of introduction", "win"
    AFTERWORD = "writer of afterword", "waw"
    ADAPTER = "adapter", "adp"
    ABRIDGER = "abridger", "abr"
    ANNOTATOR = "annotator", "ann"
    COMPILER = "compiler", "com"
    SCREENWRITER = "screenwriter", "aus"
    COMPOSER = "composer", "cmp"
    LYRICIST = "lyricist", "lyr"
    DIRECTOR = "director", "drt"
    PRODUCER = "producer", "pro"
    PERFORMER = "performer", "prf"
    CONTRIBUTOR = "contributor", "ctb"


class SubjectScheme(StrEnum):
    """Scheme of a subject heading."""

    BISAC = "BISAC"
    """A full BISAC heading, such as `FICTION / Fantasy / Epic`."""
    LABEL = "label"
    """A label of the vendor, such as `Mystery & Detective`."""


class Audience(StrEnum):
    """Audience of a title, by the BISAC category of its main subject."""

    CHILDREN = "children"
    YOUNG_ADULT = "young adult"
    GENERAL = "general"


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
