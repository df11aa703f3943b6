"""Names of people and organisations are parsed to the parts of a heading."""

import pytest

from accession.core.names import is_date, parse_name


@pytest.mark.parametrize(
    ("sort_name", "display_name"),
    [
        ("Plato", "Plato"),
        ("Le Guin, Ursula K.", "Ursula K. Le Guin"),
        ("King, Martin Luther, Jr.", "Martin Luther King, Jr."),
        ("King, Martin Luther, Jr., 1929-1968", "Martin Luther King, Jr."),
        ("Davis, Jr., Sammy", "Sammy Davis, Jr."),
        ("Martin Luther King, Jr.", "Martin Luther King, Jr."),
        ("Gates, Henry Louis, III", "Henry Louis Gates, III"),
        ("Chopra, Deepak, M.D.", "Deepak Chopra, M.D."),
        ("Deepak Chopra, M.D.", "Deepak Chopra, M.D."),
        ("Deepak Chopra, MD, PhD", "Deepak Chopra, MD, PhD"),
        ("Smith, M.D.", "M.D. Smith"),
        ("Van Dyke, M.D.", "M.D. Van Dyke"),
        ("Doyle, Arthur Conan, Sir, 1859-1930", "Sir Arthur Conan Doyle"),
        ("Berenstain, Stan and Jan", "Stan and Jan Berenstain"),
        ("Press, Bill", "Bill Press"),
        ("Books, Kitty", "Kitty Books"),
        ("Smith, S.A.", "S.A. Smith"),
        ("Kim, Yoon Se", "Yoon Se Kim"),
        ("Westerik, Co", "Co Westerik"),
        ("Doe, Jane 1946-2010", "Jane Doe"),
        ("Ovid, 43 B.C.-17 A.D.", "Ovid"),
        ("Murasaki Shikibu, born 978?", "Murasaki Shikibu"),
        ("曹雪芹", "曹雪芹"),
    ],
)
def test_name_of_person_is_displayed_in_reading_order(sort_name: str, display_name: str) -> None:
    name = parse_name(sort_name)

    assert (name.display_name, name.is_organisation) == (display_name, False)


@pytest.mark.parametrize(
    ("sort_name", "display_name"),
    [
        ("莫, 言, 1955-", "莫言"),
        ("村上, 春樹", "村上春樹"),
        ("吉本, ばなな", "吉本ばなな"),
        ("佐々木, 譲", "佐々木譲"),
        ("김, 영하", "김영하"),
        ("ドストエフスキー, フョードル", "フョードル・ドストエフスキー"),
        ("ローリング, J. K.", "J. K. ローリング"),
        ("よしもと, ばなな", "よしもとばなな"),
        ("Mo, Yan", "Yan Mo"),
    ],
)
def test_east_asian_names_have_the_order_of_their_readers(sort_name: str, display_name: str) -> None:
    name = parse_name(sort_name)

    assert name.display_name == display_name
    assert sort_name.startswith(name.name)


@pytest.mark.parametrize(
    ("sort_name", "language", "display_name"),
    [
        ("Kertész, Imre", "hun", "Kertész Imre"),
        ("Kertész, Imre, 1929-2016", "hun", "Kertész Imre"),
        ("Rejtő, Jenő, Dr.", "hun", "Dr. Rejtő Jenő"),
        ("Szabó, Quincy", "hun", "Quincy Szabó"),
        ("Szabó, Anna Mária", "hun", "Szabó Anna Mária"),
        ("King, Stephen", "hun", "Stephen King"),
        ("Kertész, Imre", "eng", "Imre Kertész"),
        ("Kertész, Imre", None, "Imre Kertész"),
    ],
)
def test_hungarian_names_have_their_order_in_hungarian_titles(
    sort_name: str, language: str | None, display_name: str
) -> None:
    assert parse_name(sort_name, language).display_name == display_name


@pytest.mark.parametrize(
    "text",
    [
        "Penguin Random House, LLC",
        "Simon & Schuster, Inc.",
        "Kodansha Co., Ltd.",
        "Little, Brown and Company",
        "Little, Brown Books for Young Readers",
        "Smith & Co.",
        "Kodansha, Co.",
        "Ernst Klett Sprachen GmbH",
        "Verlag Herder, GmbH & Co. KG",
        "Bastei Lübbe AG",
        "Grupo Planeta, S.A.",
        "Charles River Editors",
        "Oxford University Press, USA",
        "Dorling Kindersley, Ltd",
        "National Geographic Society (U.S.)",
        "L.A. Theatre Works",
        "Editors of Cook's Illustrated",
    ],
)
def test_name_of_organisation_keeps_its_order(text: str) -> None:
    name = parse_name(text)

    assert name.is_organisation
    assert name.display_name == name.name == text.removesuffix(" (U.S.)")


@pytest.mark.parametrize("text", ["Radio Players, The", "The Radio Players"])
def test_article_of_organisation_is_only_displayed(text: str) -> None:
    name = parse_name(text)

    assert (name.name, name.display_name) == ("Radio Players", "The Radio Players")
    assert name.is_organisation


def test_parts_of_heading_are_separated() -> None:
    name = parse_name("Tolkien, J. R. R. (John Ronald Reuel), Sir, 1892-1973")

    assert (name.name, name.fuller_form, name.titles, name.dates) == (
        "Tolkien, J. R. R.",
        "John Ronald Reuel",
        ("Sir",),
        "1892-1973",
    )


@pytest.mark.parametrize(
    "text",
    [
        *("1946-", "1946-2010", "1946–2010", "1946- 2010", "-1998", "1946?-", "1946", "b. 1946"),
        *(
            "approximately 1946-",
            "approximately 1946-approximately 2010",
            "ca. 1946-",
            "d. 1998",
            "died 1998",
        ),
        *("1946 or 1947-", "1950 February 3-", "428 B.C.-348 B.C.", "active 16th century", "fl. 1550"),
        *("19th/20th cent.", "born 1946", "active 1820-1850"),
    ],
)
def test_dates_of_a_life_are_recognised(text: str) -> None:
    assert is_date(text)
    assert parse_name(f"Doe, Jane, {text}").display_name == "Jane Doe"
    assert parse_name(f"Doe, Jane, {text}").dates == text


@pytest.mark.parametrize("text", ["", "-", "Jane", "Jr.", "III", "Agent 1946", "7", "M.D.", "X-1946x"])
def test_other_parts_are_not_dates(text: str) -> None:
    assert not is_date(text)
