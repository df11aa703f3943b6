"""Texts of notifications."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.core.settings import Settings, use_settings
from accession.notifications.kinds import SEVERITIES, EventKind
from accession.notifications.messages import TEST_KIND, Item, write_message
from tests.fixtures.factories import NOON

FAILED = Item(
    EventKind.RUN_FAILED, "Alder Library, purchases", "The vendor does not respond.", NOON, run_id=7
)


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    use_settings(Settings())
    yield
    use_settings(None)


def test_message_says_what_why_since_when_and_what_to_do() -> None:
    message = write_message(EventKind.RUN_FAILED, [FAILED])
    assert message.title == "Accession: Import failed: Alder Library, purchases"
    assert message.type == "failure"
    assert message.body.splitlines() == [
        "Import failed: Alder Library, purchases",
        "Reason: The vendor does not respond.",
        "Since: 2024-05-01 12:00 UTC",
        "What to do: Read the reason, and start the run again when its cause is gone. The next scheduled run "
        "resumes from the checkpoint in any case.",
    ]


@pytest.mark.parametrize("base", ["https://accession.example", "https://library.example/accession/"])
def test_message_links_to_the_run_if_the_url_is_known(base: str) -> None:
    use_settings(Settings(public_url=base))
    message = write_message(EventKind.RUN_FAILED, [FAILED])
    assert message.body.splitlines()[-1] == f"Details: {base.rstrip('/')}/runs/7"


def test_message_about_several_collections_has_one_reason() -> None:
    items = [
        Item(
            EventKind.RUN_FAILED,
            f"Library {number:02}, purchases",
            f"Status 503 for {number}.",
            NOON + timedelta(minutes=number),
        )
        for number in range(40)
    ]
    message = write_message(EventKind.RUN_FAILED, items, "The vendor reports status 503.")
    lines = message.body.splitlines()
    assert message.title == "Accession: Import failed: 40 imports"
    assert lines[:2] == ["Reason: The vendor reports status 503.", "Since: 2024-05-01 12:00 UTC"]
    assert lines[4] == "- Library 00, purchases"
    assert lines[-2:] == ["- Library 19, purchases", "and 20 more."]


def test_recovery_says_when_the_problem_began() -> None:
    message = write_message(EventKind.RECOVERED, [FAILED])
    assert (message.title, message.type) == ("Accession: Recovered: Alder Library, purchases", "success")
    assert message.body.splitlines() == [
        "Recovered: Alder Library, purchases",
        "A run has succeeded.",
        "It began: 2024-05-01 12:00 UTC",
    ]


@pytest.mark.parametrize("kind", list(EventKind))
@pytest.mark.parametrize("problem", list(SEVERITIES))
def test_every_kind_of_message_can_be_written(kind: EventKind, problem: EventKind) -> None:
    items = [Item(problem, "Alder Library", "It failed.", NOON)] * 2
    for number in (1, 2):
        assert write_message(kind, items[:number]).body


def test_test_message_says_that_the_channel_works() -> None:
    assert write_message(TEST_KIND, ()).title == "Accession: Test"


@given(st.text(max_size=2000))
def test_text_of_the_vendor_cannot_add_lines(text: str) -> None:
    plain = write_message(EventKind.RUN_FAILED, [Item(EventKind.RUN_FAILED, "x", "y", NOON)])
    message = write_message(EventKind.RUN_FAILED, [Item(EventKind.RUN_FAILED, text, text, NOON)])
    assert len(message.body.split("\n")) == len(plain.body.split("\n"))
    assert message.title.isprintable()
    assert len(message.body) < 2000


def test_item_is_restored_as_it_was_stored() -> None:
    assert Item.from_json(FAILED.to_json()) == FAILED
