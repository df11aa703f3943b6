"""Every request is signed over the path that is sent."""

import logging
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from accession.accounts.account import Account
from accession.bibliotheca.errors import RemoteIntegrationException
from accession.bibliotheca.signing import compute_signature
from tests.fixtures.bibliotheca import (
    ACCOUNT,
    END,
    ERROR,
    EVENTS,
    ITEMS,
    NOW,
    PAGE,
    START,
    SignedVendor,
    api_with,
    marc_error,
)

TOKYO = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    ("key", "date", "path", "expected"),
    [
        (
            "b",
            "Fri, 01 Jan 2016 00:00:00 GMT",
            "/cirrus/library/c/some_url",
            "HZHNGfn6WVceakGrwXaJQ9zIY0Ai5opGct38j9/bHrE=",
        ),
        (
            "account_key",
            "Mon, 11 Nov 2024 10:00:00 GMT",
            "/cirrus/library/library_id/data/cloudevents"
            "?startdate=2024-11-10T10:00:00&enddate=2024-11-11T10:00:00",
            "KipNmbVsmsT2xPjP4oHAaR3n00JgcszfF6mQRffBoRk=",
        ),
    ],
)
def test_signature_matches_known_example(key: str, date: str, path: str, expected: str) -> None:
    assert compute_signature(SecretStr(key), date, "GET", path) == expected


def test_marc_request_has_utc_seconds_and_headers() -> None:
    vendor = SignedVendor(PAGE)

    page = api_with(vendor).fetch_marc_page(
        datetime(2024, 4, 30, 9, tzinfo=TOKYO),
        datetime(2024, 5, 1, 0, 0, 0, 999_999, UTC),
        offset=51,
        limit=7,
    )

    assert vendor.paths == [
        "/cirrus/library/rvs/data/marc?startdate=2024-04-30T00:00:00&enddate=2024-05-01T00:00:00&offset=51&limit=7"
    ]
    headers = vendor.requests[0].headers
    assert headers["3mcl-Datetime"] == "Wed, 01 May 2024 08:15:00 GMT"
    assert (headers["3mcl-Version"], headers["Accept"]) == ("2.0", "application/xml")
    assert len(page.records) == 3


def test_events_request_has_utc_seconds() -> None:
    vendor = SignedVendor(EVENTS)

    response = api_with(vendor).fetch_events(
        datetime(2024, 4, 30, 9, tzinfo=TOKYO), datetime(2024, 5, 1, 0, 0, 0, 999_999, UTC)
    )

    assert vendor.paths == [
        "/cirrus/library/rvs/data/cloudevents?startdate=2024-04-30T00:00:00&enddate=2024-05-01T00:00:00"
    ]
    assert [event.event_id for event in response.events] == ["e-0001", "e-0002", "e-0004"]
    assert [fault.event_id for fault in response.faults] == ["e-0003"]
    assert (response.fetched, response.repaired) == (4, False)


def test_events_request_matches_known_signature() -> None:
    vendor = SignedVendor()
    account = Account("Main", "library_id", "account_id", SecretStr("account_key"), "https://vendor.example")
    now = datetime(2024, 11, 11, 10, tzinfo=UTC)

    with pytest.raises(RemoteIntegrationException):
        api_with(vendor, account, lambda: now).fetch_events(now - timedelta(days=1), now)

    assert (
        vendor.requests[0].headers["3mcl-Authorization"]
        == "3MCLAUTH account_id:KipNmbVsmsT2xPjP4oHAaR3n00JgcszfF6mQRffBoRk="
    )


unusual_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)


@settings(deadline=None)
@given(st.lists(unusual_ids, min_size=1, max_size=25))
def test_signature_covers_path_with_any_ids(ids: list[str]) -> None:
    vendor = SignedVendor(ITEMS)

    api_with(vendor).fetch_items(ids)

    assert vendor.paths[0].startswith("/cirrus/library/rvs/items/")
    assert vendor.paths[0].count("/") == 5
    assert vendor.paths[0].count(",") == len(ids) - 1


def test_each_request_is_signed_with_its_own_date() -> None:
    vendor = SignedVendor(ERROR, PAGE)
    seconds = iter(range(1000))

    api_with(vendor, clock=lambda: NOW + timedelta(seconds=next(seconds))).fetch_marc_page(START, END)

    first, second = (request.headers["3mcl-Datetime"] for request in vendor.requests)
    assert first != second


def test_key_and_signature_are_in_no_error_or_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    vendor = SignedVendor(ERROR)

    error = marc_error(api_with(vendor))

    signature = vendor.requests[0].headers["3mcl-Authorization"].rpartition(":")[2]
    output = f"{ACCOUNT!r} {error!r} {error} {vars(error)} {caplog.text}"
    assert "s3cret-key" not in output
    assert signature not in output
