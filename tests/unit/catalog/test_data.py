"""Data classes of titles: content hashes, limits of text and validation."""

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
from accession.core.vocabulary import ContributorRole, Format, IdentifierType, LinkRel, Medium, SubjectScheme
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


def test_content_hash_ignores_the_time_of_the_response() -> None:
    assert solaris(as_of=NOON + timedelta(days=1)).content_hash() == solaris().content_hash()


@pytest.mark.parametrize("name", sorted(BibliographicData.model_fields.keys() - {"as_of"}))
def test_content_hash_changes_with_any_field(name: str) -> None:
    assert solaris(**{name: CHANGES[name]}).content_hash() != solaris().content_hash()


@pytest.mark.parametrize("name", ["contributors", "isbns", "subjects"])
def test_content_hash_changes_with_order(name: str) -> None:
    values = {
        "contributors": (person("Lem, Stanisław"), person("Kandel, Michael")),
        "isbns": ("9780156027601", "9788308068298"),
        "subjects": (subject("FICTION / Science Fiction"), subject("FICTION / General")),
    }[name]

    assert (
        solaris(**{name: values}).content_hash() != solaris(**{name: tuple(reversed(values))}).content_hash()
    )


def test_content_hash_ignores_counts() -> None:
    assert (
        title_data("abc", licenses_owned=9, licenses_available=9).bibliographic.content_hash()
        == title_data("abc").bibliographic.content_hash()
    )


def test_content_hash_is_versioned_sha256_of_canonical_json() -> None:
    content = json.loads(solaris().model_dump_json(exclude={"as_of"}))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert solaris().content_hash() == f"1:{hashlib.sha256(text.encode()).hexdigest()}"


def test_new_hash_version_changes_every_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = solaris().content_hash()
    monkeypatch.setattr(data, "HASH_VERSION", 2)

    assert solaris().content_hash() == before.replace("1:", "2:", 1)


no_deadline = settings(deadline=None)
json_keys = st.permutations(list(title_data("solaris").model_dump(mode="json")["bibliographic"]))


@no_deadline
@given(json_keys)
def test_order_of_json_keys_does_not_matter(keys: list[str]) -> None:
    """PostgreSQL's jsonb, which the outbox uses, does not keep the order of keys."""
    stored = title_data("solaris").model_dump(mode="json")
    reordered = {key: stored["bibliographic"][key] for key in keys}

    title = TitleData.model_validate({"bibliographic": reordered, "circulation": stored["circulation"]})

    assert title == title_data("solaris")
    assert title.bibliographic.content_hash() == title_data("solaris").bibliographic.content_hash()


any_text = st.text(st.characters() | st.sampled_from("\0\ud800\udfff \n"), max_size=50)


@no_deadline
@given(any_text)
def test_text_is_reduced_to_what_postgresql_can_store(text: str) -> None:
    description = title_data("abc", description=text).bibliographic.description

    assert description is not None
    assert "\0" not in description
    assert description == description.strip()
    description.encode()
    assert [c for c in description if not c.isspace()] == [
        c for c in text if not c.isspace() and c != "\0" and not "\ud800" <= c <= "\udfff"
    ]


@pytest.mark.parametrize("text", ["", " \n", "\0", "\ud800", " \0 "])
def test_empty_names_are_rejected(text: str) -> None:
    with pytest.raises(ValidationError, match="at least 1 character"):
        title_data("abc", title=text)
    with pytest.raises(ValidationError, match="at least 1 character"):
        SubjectData(scheme=SubjectScheme.LABEL, name=text)


def test_title_that_is_not_text_is_rejected() -> None:
    with pytest.raises(ValidationError, match="valid string"):
        title_data("abc", title=7)


def test_names_are_cut_at_300_characters() -> None:
    long = "Ł" * 299 + " " + "ó" * 500

    assert SubjectData(scheme=SubjectScheme.LABEL, name=long).name == "Ł" * 299
    contributor = ContributorData(sort_name=long, display_name=long, role=ContributorRole.AUTHOR)
    assert (contributor.sort_name, contributor.display_name) == ("Ł" * 299, "Ł" * 299)


def test_links_over_2000_bytes_are_left_out() -> None:
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
def test_invalid_field_is_rejected(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        title_data("abc", **change)


def test_title_has_identifier_and_time_of_its_source() -> None:
    title = title_data("abc", as_of=datetime(2024, 5, 1, tzinfo=UTC))

    assert (title.identifier, title.as_of) == ("abc", datetime(2024, 5, 1, tzinfo=UTC))
