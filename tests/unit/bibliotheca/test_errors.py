"""A vendor error's class says whether to retry, and its text says what happened."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.bibliotheca.errors import (
    AuthenticationFailed,
    BadResponseException,
    ConnectionFailed,
    PermanentVendorError,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    RequestTimedOut,
    ResponseContext,
    TransientVendorError,
    UnknownLibrary,
    excerpt_of,
    problem_of,
)

TRANSIENT = [BadResponseException, ConnectionFailed, RemoteInitiatedServerError, RequestTimedOut]
PERMANENT = [AuthenticationFailed, PermanentVendorError, UnknownLibrary]
ALL_TYPES = [RemoteIntegrationException, TransientVendorError, *TRANSIENT, *PERMANENT]
CONTEXT = ResponseContext("Main", "https://vendor.example/x", 502)


@pytest.mark.parametrize("error_type", TRANSIENT)
def test_failure_of_the_vendor_is_transient(error_type: type[RemoteIntegrationException]) -> None:
    assert issubclass(error_type, TransientVendorError)
    assert not issubclass(error_type, PermanentVendorError)


@pytest.mark.parametrize("error_type", PERMANENT)
def test_mistake_in_the_request_is_permanent(error_type: type[RemoteIntegrationException]) -> None:
    assert issubclass(error_type, PermanentVendorError)
    assert not issubclass(error_type, TransientVendorError)


@pytest.mark.parametrize("error_type", ALL_TYPES)
def test_error_survives_pickling(error_type: type[RemoteIntegrationException]) -> None:
    error = CONTEXT.error(error_type, "the vendor failed", b"<oops>")

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301

    assert type(copy) is error_type
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


@pytest.mark.parametrize("error_type", ALL_TYPES)
def test_error_survives_a_json_round_trip(error_type: type[RemoteIntegrationException]) -> None:
    """Celery stores the arguments of exceptions as JSON."""
    error = CONTEXT.error(error_type, "the vendor failed", b"<oops>")

    assert str(error_type(*json.loads(json.dumps(error.args)))) == str(error)


def test_retry_after_survives_pickling() -> None:
    error = BadResponseException("busy", "Main", "https://vendor.example/x", 429, "", 17.0)

    assert pickle.loads(pickle.dumps(error)).retry_after == 17.0  # noqa: S301


def test_error_text_names_collection_url_and_status() -> None:
    error = CONTEXT.error(BadResponseException, "the vendor failed")

    assert str(error) == 'Collection "Main": the vendor failed (https://vendor.example/x, status 502).'


@pytest.mark.parametrize("error_type", ALL_TYPES)
def test_error_about_personal_data_quotes_nothing(error_type: type[RemoteIntegrationException]) -> None:
    context = ResponseContext("Main", "https://vendor.example/x", 502, contains_personal_data=True)

    error = context.error(error_type, f"the vendor failed: {context.quote('oops', 'omitted')}", b"<oops>")

    assert error.excerpt == ""
    assert str(error) == (
        'Collection "Main": the vendor failed: omitted (https://vendor.example/x, status 502).'
    )
    assert context.cause(ValueError("oops")) is None


def test_error_about_other_response_quotes_it() -> None:
    cause = ValueError("oops")

    assert ResponseContext().error(RequestTimedOut, "late", b"<oops>").excerpt == "<oops>"
    assert ResponseContext().quote("oops", "omitted") == "oops"
    assert ResponseContext().cause(cause) is cause


def test_error_without_context_is_a_sentence() -> None:
    assert str(RequestTimedOut("there was no response")) == "there was no response."


@given(
    collection=st.text(min_size=1),
    problem=st.text(alphabet=st.characters(exclude_characters=" "), min_size=1),
    url=st.sampled_from(["", "https://vendor.example/x?a=(1)&b=2"]),
    status=st.none() | st.integers(100, 599),
)
def test_problem_of_message_names_no_request(
    collection: str, problem: str, url: str, status: int | None
) -> None:
    """Collections with one problem are then listed together."""
    message = str(PermanentVendorError(problem, collection, url, status))
    assert problem_of(message, collection) == f"{problem[:1].upper()}{problem[1:]}."


def test_excerpt_is_short_and_printable() -> None:
    excerpt = excerpt_of(
        b"\xef\xbb\xbf\x1b[31mred\x00\r\n\t\xff" + "\N{RIGHT-TO-LEFT OVERRIDE}x".encode() * 500
    )

    assert len(excerpt) == 200
    assert excerpt.isprintable()
    assert "red" in excerpt


def test_excerpt_of_white_space_is_empty() -> None:
    assert excerpt_of(" \n" * 50) == ""
