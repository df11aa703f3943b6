"""What a vendor says of a title: stored as it can be stored, and told apart by its content alone."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from accession.catalog import data
from accession.catalog.data import BibliographicData, ContributorData, LinkData, SubjectData, TitleData
from accession.core.vocabulary import Format, IdentifierType, LinkRel, Medium, ContributorRole, SubjectScheme
from tests.fixtures.factories import NOON, person, subject, title_data

CHANGES: dict[str, Any] = {
    "data_source": "Another",
    "identifier_type": IdentifierType.ISBN,
    "identifier": "other",
    "title": "Another title",
    "subtitle": "A subtitle",
    "contributors": (person("Lem, Stanisław"),),
    "publisher": None,
    "published": "1961-03",
    "on_sale": "2014-01-01",
    "language": "eng",
    "isbns": ("9780156027601", "9788308068298"),
    "subjects": (),
    "description": "A planet thinks.",
    "links": (LinkData(rel=LinkRel.THUMBNAIL, href="https://images.example/1"),),
    "page_count": 204,
    "duration_ms": 27_000_000,
    "medium": Medium.AUDIOBOOK,
    "format": Format.PDF,
}


def solaris(**changes: Any) -> BibliographicData:
    return title_data("solaris").bibliographic.model_copy(update=changes)


def test_a_later_look_at_the_same_description_is_no_change() -> None:
    assert solaris(as_of=NOON + timedelta(days=1)).content_hash() == solaris().content_hash()


@pytest.mark.parametrize("name", sorted(BibliographicData.model_fields.keys() - {"as_of"}))
def test_a_change_of_any_field_is_a_change(name: str) -> None:
    assert solaris(**{name: CHANGES[name]}).content_hash() != solaris().content_hash()


@pytest.mark.parametrize("name", ["contributors", "isbns", "subjects"])
def test_order_is_content_where_it_means_something(name: str) -> None:
    values = {
        "contributors": (person("Lem, Stanisław"), person("Kandel, Michael")),
        "isbns": ("9780156027601", "9788308068298"),
        "subjects": (subject("FICTION / Science Fiction"), subject("FICTION / General")),
    }[name]

    assert (
        solaris(**{name: values}).content_hash() != solaris(**{name: tuple(reversed(values))}).content_hash()
    )


def test_counts_are_no_part_of_the_description() -> None:
    assert (
        title_data("abc", licenses_owned=9, licenses_available=9).bibliographic.content_hash()
        == title_data("abc").bibliographic.content_hash()
    )


def test_the_hash_is_the_sha_256_of_canonical_json_after_its_version() -> None:
    content = json.loads(solaris().model_dump_json(exclude={"as_of"}))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert solaris().content_hash() == f"1:{hashlib.sha256(text.encode()).hexdigest()}"


def test_a_new_way_of_hashing_makes_every_title_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    before = solaris().content_hash()
    monkeypatch.setattr(data, "HASH_VERSION", 2)

    assert solaris().content_hash() == before.replace("1:", "2:", 1)


at_leisure = settings(deadline=None)
json_keys = st.permutations(list(title_data("solaris").model_dump(mode="json")["bibliographic"]))


@at_leisure
@given(json_keys)
def test_the_order_of_json_is_irrelevant_so_a_way_through_the_outbox_changes_nothing(keys: list[str]) -> None:
    sent = title_data("solaris").model_dump(mode="json")
    received = {"bibliographic": {key: sent["bibliographic"][key] for key in keys}} | {
        "circulation": sent["circulation"]
    }

    again = TitleData.model_validate(received)

    assert again == title_data("solaris")
    assert again.bibliographic.content_hash() == title_data("solaris").bibliographic.content_hash()


any_text = st.text(st.characters() | st.sampled_from("\0\ud800\udfff \n"), max_size=50)


@at_leisure
@given(any_text)
def test_text_is_what_a_database_can_hold(text: str) -> None:
    said = title_data("abc", description=text).bibliographic.description

    assert said is not None
    assert "\0" not in said
    assert said == said.strip()
    said.encode()
    assert [c for c in said if not c.isspace()] == [
        c for c in text if not c.isspace() and c != "\0" and not "\ud800" <= c <= "\udfff"
    ]


@pytest.mark.parametrize("text", ["", " \n", "\0", "\ud800", " \0 "])
def test_a_name_of_nothing_is_none(text: str) -> None:
    with pytest.raises(ValidationError, match="at least 1 character"):
        title_data("abc", title=text)
    with pytest.raises(ValidationError, match="at least 1 character"):
        SubjectData(scheme=SubjectScheme.LABEL, name=text)


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(ValidationError, match="valid string"):
        title_data("abc", title=7)


def test_names_that_are_looked_up_are_cut_to_what_an_index_holds() -> None:
    long = "Ł" * 299 + " " + "ó" * 500

    assert SubjectData(scheme=SubjectScheme.LABEL, name=long).name == "Ł" * 299
    named = ContributorData(sort_name=long, display_name=long, role=ContributorRole.AUTHOR)
    assert (named.sort_name, named.display_name) == ("Ł" * 299, "Ł" * 299)


def test_an_address_longer_than_any_browser_takes_is_left_out() -> None:
    short = LinkData(rel=LinkRel.COVER, href="https://images.example/1")
    long = LinkData(rel=LinkRel.COVER, href="https://images.example/" + "é" * 1000)

    assert title_data("abc", links=(long, short)).bibliographic.links == (short,)


@pytest.mark.parametrize(
    "change",
    [
        {"published": "1961-3"},
        {"language": "pl"},
        {"page_count": -1},
        {"as_of": datetime(2024, 5, 1)},  # noqa: DTZ001
        {"licenses_owned": 2_147_483_648},
        {"colour": "red"},
    ],
)
def test_what_the_catalogue_has_no_word_for_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        title_data("abc", **change)


def test_a_title_goes_by_its_sources_identifier_and_moment() -> None:
    title = title_data("abc", as_of=datetime(2024, 5, 1, tzinfo=UTC))

    assert (title.identifier, title.as_of) == ("abc", datetime(2024, 5, 1, tzinfo=UTC))
