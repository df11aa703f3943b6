"""Item documents are parsed to titles with metadata and copy counts."""

from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.bibliotheca.errors import BadResponseException, RemoteInitiatedServerError
from accession.bibliotheca.items import DATA_SOURCE, is_item_id, parse_items
from accession.bibliotheca.normalise import iso_date
from accession.bibliotheca.text import to_plain_line, to_plain_paragraphs
from accession.catalog.data import BibliographicData, CirculationData, TitleData
from accession.core.languages import language_code
from accession.core.vocabulary import ContributorRole, Format, IdentifierType, Medium, SubjectScheme

DOCUMENTS = Path(__file__).parent / "documents"
NOW = datetime(2024, 5, 1, 8, 15, tzinfo=UTC)
COMPLETE = {
    "ItemId": "abc123",
    "Title": "A Title",
    "TotalCopies": "2",
    "AvailableCopies": "1",
    "OnHoldCount": "0",
}


def document_of(*items: dict[str, str]) -> bytes:
    """Return an item document with these elements, escaped once."""
    bodies = ("".join(f"<{name}>{escape(text)}</{name}>" for name, text in item.items()) for item in items)
    return f"<ArrayOfItem>{''.join(f'<Item>{body}</Item>' for body in bodies)}</ArrayOfItem>".encode()


def title_with(**elements: str) -> TitleData:
    response = parse_items(document_of({**COMPLETE, **elements}), NOW)
    assert response.faults == ()
    return response.titles[0]


def metadata_with(**elements: str) -> BibliographicData:
    return title_with(**elements).bibliographic


def fault_with(**elements: str) -> str:
    response = parse_items(document_of({**COMPLETE, **elements}), NOW)
    assert response.titles == ()
    return response.faults[0].reason


def test_book_is_parsed_with_all_fields() -> None:
    title = parse_items((DOCUMENTS / "items.xml").read_bytes(), NOW).titles[0]
    book = title.bibliographic

    assert (book.data_source, book.identifier_type, book.identifier) == (
        DATA_SOURCE,
        IdentifierType.BIBLIOTHECA,
        "qx7k2m9",
    )
    assert (book.title, book.subtitle, book.publisher) == (
        "Middlemarch",
        "A Study of Provincial Life",
        "Penguin & Sons",
    )
    assert [(person.sort_name, person.display_name, person.role) for person in book.contributors] == [
        ("Eliot, George", "George Eliot", ContributorRole.AUTHOR),
        ("O'Brien, Flann", "Flann O'Brien", ContributorRole.AUTHOR),
    ]
    assert (book.published, book.on_sale, book.language) == ("2011-03-01", None, "eng")
    assert book.isbns == ("9780141439549", "9780306406157")
    assert [(subject.scheme, subject.name) for subject in book.subjects] == [
        (SubjectScheme.LABEL, "Women's Fiction"),
        (SubjectScheme.LABEL, "Love & Romance"),
    ]
    assert book.description == (
        "A magnificent book.\n\nDorothea & Casaubon—and others.\nIn eight parts:\n\none\n\ntwo"
    )
    cover = "http://ebook.3m.com/delivery/img?type=DOCUMENTIMAGE&documentID=qx7k2m9&token=nobody"
    assert [(link.rel.value, link.href) for link in book.links] == [
        ("cover", cover),
        ("thumbnail", f"{cover}&size=NORMAL"),
    ]
    assert (book.page_count, book.duration_ms, book.medium, book.format) == (
        880,
        None,
        Medium.BOOK,
        Format.EPUB,
    )
    assert title.circulation == CirculationData(
        as_of=NOW, licenses_owned=3, licenses_available=2, patrons_in_hold_queue=0
    )
    assert title.as_of == NOW


def test_metadata_hash_is_stable_across_versions() -> None:
    """With another hash an upgrade would apply every title again."""
    titles = parse_items((DOCUMENTS / "items.xml").read_bytes(), NOW).titles

    assert [title.bibliographic.content_hash()[:18] for title in titles] == [
        "1:01d89f45d7961492",
        "1:6a163547eaf71442",
        "1:d1501359bb43b574",
    ]


def test_audiobook_has_narrators_and_duration() -> None:
    title = parse_items((DOCUMENTS / "items.xml").read_bytes(), NOW).titles[1]
    book = title.bibliographic

    assert (book.medium, book.format, book.duration_ms, book.page_count) == (
        Medium.AUDIOBOOK,
        Format.MP3,
        16_022_000,
        None,
    )
    assert [(person.display_name, person.role) for person in book.contributors] == [
        ("Jorge Luis Borges", ContributorRole.AUTHOR),
        ("Ana Pérez", ContributorRole.NARRATOR),
        ("The Radio Players", ContributorRole.NARRATOR),
    ]
    assert [(subject.scheme, subject.name) for subject in book.subjects] == [
        (SubjectScheme.BISAC, "FICTION / Short Stories, single author"),
        (SubjectScheme.BISAC, "FICTION / Literary"),
    ]
    assert (book.published, book.on_sale, book.language, book.subtitle, book.description) == (
        "2014",
        "2014-05-06",
        "spa",
        None,
        None,
    )
    assert title.circulation.licenses_available == 0
    assert title.circulation.patrons_in_hold_queue == 4


def test_invalid_item_does_not_affect_the_others() -> None:
    response = parse_items((DOCUMENTS / "items.xml").read_bytes(), NOW)

    assert [title.identifier for title in response.titles] == ["qx7k2m9", "ah51rr9", "b3tz8w"]
    assert [(fault.item_id, fault.reason) for fault in response.faults] == [
        ("zz00bad", "TotalCopies is not a count: 'some'")
    ]
    assert not response.repaired


def test_unknown_format_is_a_book_without_format() -> None:
    book = parse_items((DOCUMENTS / "items.xml").read_bytes(), NOW).titles[2].bibliographic

    assert (book.format, book.medium, book.language, book.published, book.links) == (
        None,
        Medium.BOOK,
        "ger",
        "2012",
        (),
    )


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("item_single.xml", ["The Moonstone"]),
        ("item_audio.xml", ["The Wind in the Willows"]),
        ("items.xml", ["Middlemarch", "Ficciones", "Der Zauberberg"]),
    ],
)
def test_item_document_is_parsed_to_clean_titles(name: str, titles: list[str]) -> None:
    response = parse_items((DOCUMENTS / name).read_bytes(), NOW)

    assert [title.bibliographic.title for title in response.titles] == titles
    for title in response.titles:
        assert title.bibliographic.language
        assert "<" not in (title.bibliographic.description or "")
        assert "&amp;" not in title.model_dump_json()


def test_single_item_has_no_faults() -> None:
    response = parse_items((DOCUMENTS / "item_single.xml").read_bytes(), NOW)

    (title,) = response.titles
    assert response.faults == ()
    assert (title.identifier, title.bibliographic.publisher) == ("m4rple1", "Harper & Brothers")
    assert title.bibliographic.description == (
        "A stolen diamond.\n\nSergeant Cuff investigates\N{EM DASH}with roses."
    )


def test_audio_item_with_paragraphs_is_parsed() -> None:
    response = parse_items((DOCUMENTS / "item_audio.xml").read_bytes(), NOW)

    (title,) = response.titles
    assert response.faults == ()
    assert (title.bibliographic.format, title.bibliographic.duration_ms) == (Format.MP3, 16_022_000)
    assert title.bibliographic.description == (
        'Mole, Rat, Toad & Badger by the river.\n\n"Messing about in boats."'
    )
    assert [person.display_name for person in title.bibliographic.contributors] == [
        "Kenneth Grahame",
        "Ann Otter",
        "Bo Weasel",
        "Cy Stoat",
    ]


def test_document_without_items_has_no_titles() -> None:
    response = parse_items((DOCUMENTS / "items_empty.xml").read_bytes(), NOW)

    assert (response.titles, response.faults) == ((), ())


@pytest.mark.parametrize("body", [b"", b"  \r\n", b"\xef\xbb\xbf"])
def test_blank_body_is_a_server_error(body: bytes) -> None:
    with pytest.raises(RemoteInitiatedServerError):
        parse_items(body, NOW)


@pytest.mark.parametrize("name", ["maintenance.html", "marc_page.xml"])
def test_other_document_is_a_bad_response(name: str) -> None:
    with pytest.raises(BadResponseException):
        parse_items((DOCUMENTS / name).read_bytes(), NOW)


def test_last_of_repeated_items_is_used() -> None:
    response = parse_items(
        document_of(COMPLETE, {**COMPLETE, "ItemId": "x"}, {**COMPLETE, "Title": "Later"}), NOW
    )

    assert [(title.identifier, title.bibliographic.title) for title in response.titles] == [
        ("abc123", "Later"),
        ("x", "A Title"),
    ]


def test_unknown_and_repeated_elements_are_tolerated() -> None:
    body = (
        b"<ArrayOfItem><Paging/>text<Item><Title/><Title>Kept</Title><Title>Second</Title>"
        b"<ItemId> a1 </ItemId><Novelty><Deep/></Novelty><TotalCopies>0</TotalCopies></Item></ArrayOfItem>"
    )
    (title,) = parse_items(body, NOW).titles

    assert (title.identifier, title.bibliographic.title) == ("a1", "Kept")
    assert title.circulation.licenses_owned == 0


def test_repaired_document_is_marked() -> None:
    body = document_of(COMPLETE).replace(b"A Title", b"&ldquo;A&rdquo; \x02Title")

    response = parse_items(body, NOW)

    assert response.repaired
    assert response.titles[0].bibliographic.title == "“A” Title"


@pytest.mark.parametrize("name", ["ItemId", "Title"])
@pytest.mark.parametrize("text", ["", "  ", "\N{SOFT HYPHEN}"])
def test_item_without_id_or_title_is_a_fault(name: str, text: str) -> None:
    assert fault_with(**{name: text}) == f"it has no {name}"


@pytest.mark.parametrize("name", ["TotalCopies", "AvailableCopies", "OnHoldCount"])
@pytest.mark.parametrize("text", ["-1", "many", "1.5", "2147483648", "9" * 30, "٣"])
def test_invalid_count_is_a_fault(name: str, text: str) -> None:
    assert name in fault_with(**{name: text})


def test_only_missing_owned_copies_are_a_fault() -> None:
    assert "TotalCopies" in fault_with(TotalCopies="")

    circulation = title_with(AvailableCopies="", OnHoldCount="").circulation
    assert (circulation.licenses_available, circulation.patrons_in_hold_queue) == (0, 0)


def test_item_rejected_by_data_class_is_a_fault() -> None:
    response = parse_items(document_of(COMPLETE), datetime(2024, 5, 1))  # noqa: DTZ001

    assert "as_of" in response.faults[0].reason


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        (" ; ;", []),
        ("Plato", [("Plato", "Plato")]),
        ("Plato,", [("Plato", "Plato")]),
        ("King, Martin Luther, Jr.", [("King, Martin Luther, Jr.", "Martin Luther King, Jr.")]),
        ("Riggs, Ransom (Author); Riggs, Ransom", [("Riggs, Ransom", "Ransom Riggs")]),
        ("(Anonymous)", [("(Anonymous)", "(Anonymous)")]),
        ("O&amp;#39;Neill, Eugene", [("O'Neill, Eugene", "Eugene O'Neill")]),
        ("Doe,  Jane;Roe, Sam", [("Doe, Jane", "Jane Doe"), ("Roe, Sam", "Sam Roe")]),
        ("Smith &amp;amp; Co; Poe, E.", [("Smith & Co", "Smith & Co"), ("Poe, E.", "E. Poe")]),
    ],
)
def test_names_are_split_and_reordered(text: str, names: list[tuple[str, str]]) -> None:
    people = metadata_with(Authors=text).contributors

    assert [(person.sort_name, person.display_name) for person in people] == names


def test_roles_in_remarks_are_roles_of_the_title() -> None:
    people = metadata_with(
        Authors="Doe, Jane (Editor); O'Brien, Tim, 1946-; Penguin Random House, LLC",
        Narrator="Hand, Ann; Roe, Rick (Director)",
    ).contributors

    assert [(person.sort_name, person.display_name, person.role.value) for person in people] == [
        ("Doe, Jane", "Jane Doe", "editor"),
        ("O'Brien, Tim, 1946-", "Tim O'Brien", "author"),
        ("Penguin Random House, LLC", "Penguin Random House, LLC", "author"),
        ("Hand, Ann", "Ann Hand", "narrator"),
        ("Roe, Rick", "Rick Roe", "director"),
    ]


def test_person_in_two_roles_is_kept_in_both() -> None:
    people = metadata_with(Authors="Doe, Jane", Narrator="Doe, Jane; Doe, Jane").contributors

    assert [person.role for person in people] == [ContributorRole.AUTHOR, ContributorRole.NARRATOR]


@pytest.mark.parametrize(
    ("text", "subjects"),
    [
        ("", []),
        (",", []),
        ("|,", []),
        ("Drama", [("label", "Drama")]),
        ("Drama, Drama,", [("label", "Drama")]),
        ("Health &amp; Fitness,", [("label", "Health & Fitness")]),
        ("Paranormal  Occult,", [("label", "Paranormal, Occult")]),
        ("FICTION|", [("BISAC", "FICTION")]),
        ("FICTION|Fantasy|Epic|", [("BISAC", "FICTION / Fantasy / Epic")]),
        ("FICTION|Sagas|, FICTION|War|", [("BISAC", "FICTION / Sagas"), ("BISAC", "FICTION / War")]),
        ("JUVENILE|Toys, Dolls|,", [("BISAC", "JUVENILE / Toys, Dolls")]),
        (
            "FICTION|Sagas|,Plain, Labels,",
            [("BISAC", "FICTION / Sagas"), ("label", "Plain"), ("label", "Labels")],
        ),
    ],
)
def test_subjects_of_both_formats_are_parsed(text: str, subjects: list[tuple[str, str]]) -> None:
    assert [
        (subject.scheme.value, subject.name) for subject in metadata_with(Genre=text).subjects
    ] == subjects


@pytest.mark.parametrize(
    ("url", "links"),
    [
        ("", []),
        ("https://x.example/c.jpg", ["https://x.example/c.jpg"]),
        (
            "https://x.example/delivery/img",
            ["https://x.example/delivery/img", "https://x.example/delivery/img?size=NORMAL"],
        ),
        ("https://x.example/c?a=1&amp;region=2", ["https://x.example/c?a=1&region=2"]),
        ("https://x.example/c?a=1&region=2&copy=3", ["https://x.example/c?a=1&region=2&copy=3"]),
        ("ftp://x.example/c.jpg", []),
        ("javascript:alert(1)", []),
        ("https:///c.jpg", []),
        ("https://[bad/c.jpg", []),
        ("https://x.example/a b", []),
    ],
)
def test_cover_is_kept_only_as_web_url(url: str, links: list[str]) -> None:
    assert [link.href for link in metadata_with(CoverLinkURL=url).links] == links


@pytest.mark.parametrize(
    ("pub_date", "pub_year", "published"),
    [
        ("2016-09-03", "2016", "2016-09-03"),
        ("2016-09-03T00:00:00", "", "2016-09-03"),
        ("2016-09-03 11:00", "", "2016-09-03"),
        ("2016-09", "", "2016-09"),
        ("2016", "", "2016"),
        ("", "2015", "2015"),
        ("soon", "2015", "2015"),
        ("2016-02-31", "", "2016-02"),
        ("2016-13-01", "", "2016"),
        ("0001-01-01", "", None),
        ("", "", None),
    ],
)
def test_date_is_as_precise_as_its_valid_part(pub_date: str, pub_year: str, published: str | None) -> None:
    assert metadata_with(PubDate=pub_date, PubYear=pub_year).published == published


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("en", "eng"),
        ("EN", "eng"),
        ("eng", "eng"),
        ("en-US", "eng"),
        ("zh_Hant", "chi"),
        ("German", "ger"),
        ("de", "ger"),
        ("deu", "ger"),
        ("ger", "ger"),
        ("fra", "fre"),
        ("Klingonese", None),
        ("", None),
    ],
)
def test_language_becomes_bibliographic_code(text: str, code: str | None) -> None:
    assert metadata_with(Language=text).language == code
    assert language_code(text) == code


@pytest.mark.parametrize(
    ("text", "isbn"),
    [
        ("9780306406157", "9780306406157"),
        ("978-0-306-40615-7", "9780306406157"),
        ("0306406152", "9780306406157"),
        ("080442957x", "9780804429573"),
        ("9780306406157 (ebook)", "9780306406157"),
        ("9780306406158", None),
        ("0306406153", None),
        ("1234567890123", None),
        ("٩٧٨٠٣٠٦٤٠٦١٥٧", None),
        ("", None),
    ],
)
def test_isbn_is_normalised_or_dropped(text: str, isbn: str | None) -> None:
    assert metadata_with(ISBN13=text, PhysicalISBN=text).isbns == ((isbn,) if isbn else ())


@pytest.mark.parametrize("text", ["", "0", "n/a", "-3", "99999999999"])
def test_invalid_pages_and_duration_are_unknown(text: str) -> None:
    book = metadata_with(NumberOfPages=text, Duration=text)

    assert (book.page_count, book.duration_ms) == (None, None)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("one<br></br>two<br/>three<BR>four", "one\ntwo\nthree\nfour"),
        ("one<br></br> <br></br>\n<br>two", "one\n\ntwo"),
        ("&lt;p&gt;Tom &amp;amp; Ann&lt;/p&gt;", "Tom & Ann"),
        ("a < b, 5 <3", "a < b, 5 <3"),
        ("<script>evil()</script>good<style>x</style>", "good"),
        ("soft\N{SOFT HYPHEN}ly&shy; so", "softly so"),
        ("<![if x]>kept<![endif]> <![", "kept"),
        ("R&amp;amp;B &amp;#8212; x", "R&B — x"),
        ("line\r\nend", "line end"),
    ],
)
def test_description_becomes_plain_paragraphs(html: str, text: str) -> None:
    assert to_plain_paragraphs(html) == text
    assert metadata_with(Description=html).description == text


def test_unescaped_html_is_converted() -> None:
    body = document_of({**COMPLETE, "Description": "@"}).replace(b"@", b"Tom &amp; <b>Ann</b><br/>two")

    assert parse_items(body, NOW).titles[0].bibliographic.description == "Tom & Ann\ntwo"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("<i>Day</i>", "Day"),
        ("&lt;i&gt;Day&lt;/i&gt;", "Day"),
        ("&amp;lt;EM&amp;gt;Day&amp;lt;/EM&amp;gt;", "Day"),
        ("<span class='x' lang=en>Day</span>", "Day"),
        ("<i>Day", "Day"),
        ("Day</i>", "Day"),
        ("H<sub>2</sub>O", "H2O"),
        ("One<br/>Two<BR>Three<p >Four", "One Two Three Four"),
        ("zero\N{ZERO WIDTH SPACE}width", "zerowidth"),
        ("&zwnj;می&zwnj;خواهم&shy;", "می\N{ZERO WIDTH NON-JOINER}خواهم"),
        ("I <3 You", "I <3 You"),
        ("a < b", "a < b"),
        ("a<b and c>d", "a<b and c>d"),
        ("<Untitled>", "<Untitled>"),
        ("&lt;Untitled&gt; by <b>X</b>", "<Untitled> by X"),
        ("Me < U > They", "Me < U > They"),
        ("Class <B>", "Class <B>"),
        ("<i>", "<i>"),
    ],
)
def test_title_loses_tags_and_invisible_characters(text: str, line: str) -> None:
    book = metadata_with(Title=text, SubTitle=text, Publisher=text)

    assert (book.title, book.subtitle, book.publisher) == (line, line, line)


@given(
    st.text(st.characters(exclude_characters="<>&", exclude_categories=["Cs"])),
    st.sampled_from(["i", "EM", "strong", "sup", "span"]),
)
def test_escaped_tags_around_text_make_no_difference(text: str, name: str) -> None:
    tagged = f"<{name}>{text}</{name}>"

    for escaped in (tagged, escape(tagged), escape(escape(tagged))):
        assert to_plain_line(escaped) == to_plain_line(text)


@given(st.text(st.sampled_from("<>/='\" xyz3")))
def test_brackets_without_the_name_of_an_element_stay(text: str) -> None:
    assert to_plain_line(text) == " ".join(text.split())


@settings(deadline=None)
@given(st.text(max_size=80))
def test_arbitrary_text_is_cleaned(text: str) -> None:
    assert to_plain_line(text) == " ".join(to_plain_line(text).split())
    assert "\n\n\n" not in to_plain_paragraphs(text)
    iso_date(text)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["Authors", "Narrator", "Genre", "Description", "CoverLinkURL", "Language", "PubDate", "Duration"]
        ),
        st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Cn"]), max_size=40),
    )
)
def test_arbitrary_metadata_never_raises(elements: dict[str, str]) -> None:
    assert metadata_with(**elements).title == "A Title"


@pytest.mark.parametrize("text", ["", " ", ".", "..", "a b", "a,b", "a/b", "a?b", "é", "x" * 33])
def test_invalid_item_id_is_recognised(text: str) -> None:
    assert not is_item_id(text)
    assert is_item_id("qx7k2m9")
