"""Lists of authors and narrators are parsed to contributors with roles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.bibliotheca.contributors import parse_contributors
from accession.core.names import parse_name
from accession.core.vocabulary import ContributorRole

AUTHOR, EDITOR = ContributorRole.AUTHOR, ContributorRole.EDITOR


def roles_of(names: str, role: ContributorRole = AUTHOR) -> list[tuple[str, str]]:
    """Return the display name and role of each contributor."""
    return [(each.display_name, each.role.value) for each in parse_contributors(names, role)]


@pytest.mark.parametrize(
    ("text", "sort_name", "display_name"),
    [
        ("Plato", "Plato", "Plato"),
        ("Plato,", "Plato", "Plato"),
        ("O'Brien, Tim, 1946-", "O'Brien, Tim, 1946-", "Tim O'Brien"),
        ("Doe,  Jane (1946-2010)", "Doe, Jane, 1946-2010", "Jane Doe"),
        ("Doe, Jane (b. 1946) (Author)", "Doe, Jane, b. 1946", "Jane Doe"),
        ("Penguin Random House, LLC", "Penguin Random House, LLC", "Penguin Random House, LLC"),
        ("Watkins, Claire Vaye (Nevada)", "Watkins, Claire Vaye", "Claire Vaye Watkins"),
        ("Watkins, Claire Vaye (Nevada) [x]", "Watkins, Claire Vaye", "Claire Vaye Watkins"),
        (
            "Tolkien, J. R. R. (John Ronald Reuel), 1892-1973",
            "Tolkien, J. R. R. (John Ronald Reuel), 1892-1973",
            "J. R. R. Tolkien",
        ),
        ("(Anonymous)", "(Anonymous)", "(Anonymous)"),
    ],
)
def test_name_is_kept_to_sort_and_to_display(text: str, sort_name: str, display_name: str) -> None:
    (contributor,) = parse_contributors(text, AUTHOR)

    assert (contributor.sort_name, contributor.display_name) == (sort_name, display_name)
    assert contributor.role == AUTHOR


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("Doe, Jane (Editor)", "editor"),
        ("Doe, Jane (ed.)", "editor"),
        ("Doe, Jane [Series Editor]", "editor"),
        ("Doe, Jane (Hrsg.)", "editor"),
        ("Doe, Jane(edt)", "editor"),
        ("Doe, Jane (Illustrator)", "illustrator"),
        ("Doe, Jane (Illustrations by)", "illustrator"),
        ("Doe, Jane (Translator)", "translator"),
        ("Doe, Jane (Traductora)", "translator"),
        ("Doe, Jane (Foreword by)", "writer of foreword"),
        ("Doe, Jane (With an introduction by)", "writer of introduction"),
        ("Doe, Jane (Author of introduction, etc.)", "writer of introduction"),
        ("Doe, Jane (Preface)", "writer of preface"),
        ("Doe, Jane (Afterword by)", "writer of afterword"),
        ("Doe, Jane (Narrator)", "narrator"),
        ("Doe, Jane (Read by)", "narrator"),
        ("Doe, Jane (Narrator", "narrator"),
        ("Doe, Jane (Penciler)", "penciller"),
        ("Doe, Jane (Colourist)", "colorist"),
        ("Doe, Jane (Cover Art)", "cover designer"),
        ("Doe, Jane (Photographer)", "photographer"),
        ("Doe, Jane (Adapted by)", "adapter"),
        ("Doe, Jane (Contributor)", "contributor"),
        ("Doe, Jane (Author)", "author"),
        ("Doe, Jane (Spouse)", "author"),
        ("Doe, Jane (Editor), 1946-", "editor"),
        ("Doe, Jane, 1946-, editor.", "editor"),
        ("Doe, Jane, 1946- editor.", "editor"),
        ("Doe, Jane, illustrator", "illustrator"),
    ],
)
def test_role_in_remark_is_recognised(text: str, role: str) -> None:
    assert roles_of(text) == [("Jane Doe", role)]


@pytest.mark.parametrize("role", ContributorRole)
def test_term_and_code_of_every_role_are_recognised(role: ContributorRole) -> None:
    assert roles_of(f"Doe, Jane ({role.value}); Roe, Rick ({role.code})") == [
        ("Jane Doe", role.value),
        ("Rick Roe", role.value),
    ]
    assert ContributorRole(role.value) is role


def test_each_name_of_a_list_has_its_own_role() -> None:
    assert roles_of("Doe, Jane (Editor); Roe, Rick (Illustrator); Poe, E.") == [
        ("Jane Doe", "editor"),
        ("Rick Roe", "illustrator"),
        ("E. Poe", "author"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Doe, Jane (Author, Illustrator)",
        "Doe, Jane (Author/Illustrator)",
        "Doe, Jane (Written and illustrated by)",
        "Doe, Jane (Author) (Illustrator)",
        "Doe, Jane (Author & Illustrator, Illustrator)",
        "Doe, Jane; Doe, Jane (Illustrator)",
    ],
)
def test_person_in_two_roles_is_two_contributors(text: str) -> None:
    assert roles_of(text) == [("Jane Doe", "author"), ("Jane Doe", "illustrator")]


def test_names_in_list_of_narrators_narrate_by_default() -> None:
    names = "King, Stephen (Author); Callow, Simon; Hand, Ann (Director); The Radio Players"

    assert roles_of(names, ContributorRole.NARRATOR) == [
        ("Stephen King", "narrator"),
        ("Simon Callow", "narrator"),
        ("Ann Hand", "director"),
        ("The Radio Players", "narrator"),
    ]


@pytest.mark.parametrize("text", ["", " ; ;", "(Editor)", " (Editor) ; [ill]", ","])
def test_entry_without_name_is_dropped(text: str) -> None:
    assert roles_of(text) == []


# Names and remarks in any order, with the characters that separate them.
names_and_remarks = ["Doe", "Jane", "Ltd.", "Jr.", "The", "Press", "1946-", "b. 1946", "-1998", "editor"]
separators = ["(", ")", "[", "]", ",", ";", " ", "&", "\N{EN DASH}", "(Editor)", "[trl]", "(x)"]
fragments = st.lists(
    st.sampled_from(names_and_remarks + separators)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4),
    max_size=14,
).map("".join)


@given(fragments)
def test_any_list_is_parsed_to_names_that_parse_the_same(text: str) -> None:
    contributors = list(parse_contributors(text, AUTHOR))

    for each in contributors:
        assert each.sort_name
        assert each.display_name
        assert each.display_name == parse_name(each.sort_name).display_name


@given(st.lists(fragments, max_size=4))
def test_names_of_a_list_are_parsed_independently(texts: list[str]) -> None:
    texts = [text.replace(";", "") for text in texts]
    separate = [each for text in dict.fromkeys(texts) for each in parse_contributors(text, AUTHOR)]

    assert list(parse_contributors(";".join(texts), AUTHOR)) == separate


words = st.text(st.characters(categories=["Lu", "Ll"]), min_size=2, max_size=8)


@given(
    last=words,
    first=words,
    dates=st.sampled_from(["1946-", "1946-2010", "approximately 1946-", "b. 1946", "-1998", "1946?-"]),
    role=st.sampled_from(list(ContributorRole)),
)
def test_dates_and_role_never_reach_the_display_name(
    last: str, first: str, dates: str, role: ContributorRole
) -> None:
    (plain,) = parse_contributors(f"{last}, {first}", AUTHOR)
    (full,) = parse_contributors(f"{last}, {first}, {dates} ({role.value})", AUTHOR)

    assert full.display_name == plain.display_name
    assert full.sort_name == f"{plain.sort_name}, {dates}"
    assert full.role == role


@given(st.lists(words, min_size=1, max_size=4), st.sampled_from(["LLC", "Inc.", "Ltd", "GmbH", "Co., Ltd."]))
def test_organisation_stays_in_order(parts: list[str], legal_form: str) -> None:
    name = f"{' '.join(parts)}, {legal_form}"
    (contributor,) = parse_contributors(name, AUTHOR)

    assert (contributor.sort_name, contributor.display_name) == (name, name)
