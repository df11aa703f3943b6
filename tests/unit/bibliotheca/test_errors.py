"""The vendor's errors say by class what to do, and by text what happened."""

import json
import pickle

import pytest

from accession.bibliotheca.errors import (
    BadResponseException,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
    ResponseContext,
    TransientVendorError,
    excerpt_of,
)

EVERY_CLASS = (RemoteIntegrationException, *TransientVendorError)


def test_three_classes_are_to_be_retried_and_the_base_is_not() -> None:
    assert set(TransientVendorError) == {BadResponseException, RequestTimedOut, RemoteInitiatedServerError}
    assert not issubclass(RemoteIntegrationException, TransientVendorError)


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_an_error_survives_pickling_whole(kind: type[RemoteIntegrationException]) -> None:
    error = ResponseContext("Main", "https://vendor.example/x", 502).error(kind, "the vendor fell over", b"<oops>")

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301

    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_an_error_can_be_made_anew_from_arguments_that_were_json(
    kind: type[RemoteIntegrationException],
) -> None:
    error = ResponseContext("Main", "https://vendor.example/x", 502).error(kind, "the vendor fell over", b"<oops>")

    assert str(kind(*json.loads(json.dumps(error.args)))) == str(error)


def test_the_wait_that_the_vendor_asks_for_survives_pickling() -> None:
    error = BadResponseException("busy", "Main", "https://vendor.example/x", 429, "", 17.0)

    assert pickle.loads(pickle.dumps(error)).retry_after == 17.0  # noqa: S301


def test_the_text_of_an_error_is_one_sentence_that_names_collection_address_and_status() -> None:
    error = ResponseContext("Main", "https://vendor.example/x", 502).error(
        BadResponseException, "the vendor fell over"
    )

    assert str(error) == 'Collection "Main": the vendor fell over (https://vendor.example/x, status 502).'


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_an_error_about_an_answer_that_must_not_be_quoted_has_no_word_of_it(
    kind: type[RemoteIntegrationException],
) -> None:
    context = ResponseContext("Main", "https://vendor.example/x", 502, contains_personal_data=True)

    error = context.error(kind, f"the vendor fell over: {context.quote('oops', 'never mind')}", b"<oops>")

    assert error.excerpt == ""
    assert str(error) == (
        'Collection "Main": the vendor fell over: never mind (https://vendor.example/x, status 502).'
    )
    assert context.cause(ValueError("oops")) is None


def test_an_error_about_any_other_answer_quotes_it_and_has_its_cause() -> None:
    cause = ValueError("oops")

    assert ResponseContext().error(RequestTimedOut, "late", b"<oops>").excerpt == "<oops>"
    assert ResponseContext().quote("oops", "never mind") == "oops"
    assert ResponseContext().cause(cause) is cause


def test_an_error_of_unknown_origin_is_still_a_sentence() -> None:
    assert str(RequestTimedOut("no answer came")) == "no answer came."


def test_an_excerpt_is_short_and_cannot_drive_a_terminal() -> None:
    excerpt = excerpt_of(
        b"\xef\xbb\xbf\x1b[31mred\x00\r\n\t\xff" + "\N{RIGHT-TO-LEFT OVERRIDE}x".encode() * 500
    )

    assert len(excerpt) == 200
    assert excerpt.isprintable()
    assert "red" in excerpt


def test_an_excerpt_of_a_long_blank_beginning_is_empty() -> None:
    assert excerpt_of(" \n" * 50) == ""
