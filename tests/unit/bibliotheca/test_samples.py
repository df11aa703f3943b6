"""Real documents of the vendor's, where they lie beside the repository."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from accession.bibliotheca.errors import RemoteInitiatedServerError
from accession.bibliotheca.events import EventsAnswer, parse_events
from accession.bibliotheca.items import parse_items
from accession.bibliotheca.marc import parse_marc_page

SAMPLES = Path(__file__).parents[3].parent / "shared" / "vendor-samples"
NOW = datetime(2024, 5, 1, tzinfo=UTC)

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the vendor's documents are not here")


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def test_the_purchase_record() -> None:
    (record,) = parse_marc_page(sample("marc_records_one.xml")).records

    assert record.fault is None
    assert record.item_ids == ("ddf4gr9",)
    assert b"Siege and Storm" in record.as_marc21()


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("item_metadata_single.xml", ["The Incense Game"]),
        ("item_metadata_list_mini.xml", ["The Incense Game", "$20 Per Gallon"]),
        ("item_metadata_audio.xml", ["Tales of the Peculiar"]),
        ("empty_item_bibliographic.xml", []),
    ],
)
def test_the_item_documents(name: str, titles: list[str]) -> None:
    answer = parse_items(sample(name), NOW)

    assert [title.bibliographic.title for title in answer.titles] == titles
    assert answer.faults == ()
    for title in answer.titles:
        assert title.bibliographic.language == "eng"
        assert "<" not in (title.bibliographic.description or "")
        assert "&amp;" not in title.model_dump_json()


def test_the_batch_without_events() -> None:
    assert parse_events(sample("empty_event_batch.xml")) == EventsAnswer(events=(), faults=())


@pytest.mark.parametrize("name", ["error_authentication_failed.xml", "error_unknown.xml"])
def test_the_error_documents(name: str) -> None:
    with pytest.raises(RemoteInitiatedServerError):
        parse_marc_page(sample(name))
