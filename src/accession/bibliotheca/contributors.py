"""Parser for the vendor's lists of authors and narrators."""

import re
from collections.abc import Iterator

from accession.catalog.data import ContributorData
from accession.core.names import is_date, parse_name
from accession.core.vocabulary import ContributorRole

# Far longer than a name with its remarks; the rest is ignored.
_MAX_ENTRY_LENGTH = 1000

# The closing bracket is missing where a list was truncated.
_REMARK = re.compile(r"\s*[(\[]([^()\[\]]*)(?:[)\]]|$)")
_REMARK_SEPARATOR = re.compile(r"[,/&+]|\b(?:and|und|et|y)\b")
_AROUND_ROLE = re.compile(r"^(?:with )?(?:an? |the |by )?|(?: by| of| de| par| von| di)?[\s.:]*$")
_DATE_AND_ROLE = re.compile(r"(.*\d{4}\??[-–])\s+([^\d,]+)")

# Besides the terms and codes of the MARC list: remarks of vendors and publishers, such as ONIX list 17.
_FURTHER_REMARKS = {
    ContributorRole.AUTHOR: "written/writer/text/co-author/coauthor/autor/autorin/autora/auteur/autore",
    ContributorRole.EDITOR: "edited/ed/eds/editors/series editor/general editor/volume editor"
    "/consultant editor/guest editor/managing editor/co-editor/selected/herausgeber/herausgeberin/hrsg/hg"
    "/éditeur/editado",
    ContributorRole.TRANSLATOR: "translated/trans/tr/translators/translation/traductor/traductora/traducteur"
    "/traductrice/tradutor/tradutora/traduttore/traduttrice/übersetzer/übersetzerin/übers/vertaler",
    ContributorRole.ILLUSTRATOR: "illustrated/illus/illustrations/illustration/drawings"
    "/ilustrador/ilustradora/illustrateur/illustratrice/illustratore/illustratorin/pictures",
    ContributorRole.NARRATOR: "narrated/read/reader/narrators/narrador/narradora/narrateur/narratrice"
    "/sprecher/sprecherin/gelesen/voice/voiceover",
    ContributorRole.ARTIST: "art/artwork/co-artist/cartoonist",
    ContributorRole.PENCILLER: "penciler/pencils",
    ContributorRole.INKER: "inks/inked",
    ContributorRole.COLORIST: "colourist/colors/colours/colored/coloured/colorer",
    ContributorRole.LETTERER: "letters/lettered/lettering",
    ContributorRole.PHOTOGRAPHER: "photographs/photos/photography/photographed/fotograf/photographe",
    ContributorRole.COVER_DESIGNER: "cover/cover art/cover artist/cover design/cover design or artwork"
    "/cover illustrator",
    ContributorRole.FOREWORD: "foreword/forward/geleitwort",
    ContributorRole.PREFACE: "preface/prefaced/vorwort/préface/préfacier/prólogo/prologue",
    ContributorRole.INTRODUCTION: "introduction/introduced/intro/author of introduction/einleitung"
    "/introducción",
    ContributorRole.AFTERWORD: "afterword/epilogue/author of afterword/nachwort/postface/epílogo",
    ContributorRole.ADAPTER: "adapted/adaptor/adaptation/retold",
    ContributorRole.ABRIDGER: "abridged/abridgement",
    ContributorRole.ANNOTATOR: "annotated/annotations/notes/commentary/commentaries",
    ContributorRole.COMPILER: "compiled",
    ContributorRole.SCREENWRITER: "screenplay/scenario/script",
    ContributorRole.COMPOSER: "music/composed",
    ContributorRole.LYRICIST: "lyrics/songwriter",
    ContributorRole.DIRECTOR: "directed",
    ContributorRole.PRODUCER: "produced",
    ContributorRole.PERFORMER: "performed/actor/reading performer/full cast/cast",
    ContributorRole.CONTRIBUTOR: "contributions/contributing author/contributing editor/contribution",
}
_ROLES = {
    **{remark: role for role, remarks in _FURTHER_REMARKS.items() for remark in remarks.split("/")},
    **{role.code: role for role in ContributorRole},
    **{role.value: role for role in ContributorRole},
}
_TERMS = frozenset(role.value for role in ContributorRole)


def parse_contributors(
    names: str, role: ContributorRole, language: str | None = None
) -> Iterator[ContributorData]:
    """Yield the contributors of a list such as "Doe, Jane, 1946- (Editor); Penguin Books, Ltd.".

    A name may state roles in brackets, or after a comma as headings of catalogues do. A name with several
    roles is yielded once for each.

    Args:
        names: Names separated by semicolons.
        role: Role of the names that state none.
        language: ISO 639-2 code of the title.
    """
    # Drop repeated names first: building a contributor takes far longer.
    for entry in dict.fromkeys(names.split(";")):
        name, roles = _split_roles(entry.strip()[:_MAX_ENTRY_LENGTH])
        if role is ContributorRole.NARRATOR:
            # An author in the list of narrators narrates the title.
            roles = [role if each is ContributorRole.AUTHOR else each for each in roles]
        if name:
            display_name = parse_name(name, language).display_name
            for each in dict.fromkeys(roles or [role]):
                yield ContributorData(sort_name=name, display_name=display_name, role=each)


def _split_roles(entry: str) -> tuple[str, list[ContributorRole]]:
    """Return the name without remarks, and the roles that these state."""
    roles: list[ContributorRole] = []

    def keep_or_drop(remark: re.Match[str]) -> str:
        stated = _parse_roles(remark[1])
        roles.extend(stated)
        if stated:
            return ""
        return f", {remark[1].strip()}" if is_date(remark[1].strip()) else remark[0]

    name = entry
    if "(" in entry or "[" in entry:
        name = _drop_remarks_at_end(_REMARK.sub(keep_or_drop, entry).strip(" ,"))
    parts = [part for text in name.split(",") if (part := text.strip())]
    if parts and (match := _DATE_AND_ROLE.fullmatch(parts[-1])):
        parts[-1:] = match.groups()
    while len(parts) > 2 and parts[-1].casefold().rstrip(".") in _TERMS:
        roles.append(_ROLES[parts.pop().casefold().rstrip(".")])
    return ", ".join(parts), roles


def _parse_roles(remark: str) -> list[ContributorRole]:
    texts = (_AROUND_ROLE.sub("", text.strip()) for text in _REMARK_SEPARATOR.split(remark.casefold()))
    return [_ROLES[text] for text in texts if text in _ROLES]


def _drop_remarks_at_end(name: str) -> str:
    while name.endswith((")", "]")):
        start = max(name.rfind("("), name.rfind("["))
        # A name that is a remark as a whole stays: "(Anonymous)".
        if start < 1:
            break
        name = name[:start].strip(" ,")
    return name
