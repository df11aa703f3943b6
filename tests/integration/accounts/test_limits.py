"""Limits of the requests to the vendor, which the collections of an account share."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from accession.accounts.collections import change_account, mark_for_deletion
from accession.accounts.limits import (
    VendorLimits,
    VendorLimitsView,
    max_concurrency,
    set_vendor_limits,
    stored_limits,
    vendor_limits_view,
)
from accession.core.errors import InvalidInput
from accession.core.settings import get_settings
from accession.db.models import Collection
from tests.fixtures.factories import make_collection

OWN = VendorLimits(2, 0.5)
# The first word is the library id, of which the account id is made.
SAME_ACCOUNT, OTHER_ACCOUNT = "Alder Branch", "Birch Library"


def test_limits_are_those_of_the_settings_by_default(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_settings(), "vendor_max_concurrency", 7)
    assert vendor_limits_view(session, collection) == VendorLimitsView(
        7, None, ("max_concurrency", "max_requests_per_second"), ("Alder Library",)
    )


def test_limits_apply_to_all_collections_of_the_account(session: Session, collection: Collection) -> None:
    branch, other = make_collection(session, SAME_ACCOUNT), make_collection(session, OTHER_ACCOUNT)
    view = set_vendor_limits(session, branch, OWN)
    assert view == VendorLimitsView(2, 0.5, (), ("Alder Branch", "Alder Library"))
    assert stored_limits(collection) == stored_limits(branch) == OWN
    assert stored_limits(other) == VendorLimits()


def test_limit_that_is_not_set_is_inherited(session: Session, collection: Collection) -> None:
    view = set_vendor_limits(session, collection, VendorLimits(max_requests_per_second=5))
    assert (view.max_concurrency, view.inherited) == (4, ("max_concurrency",))
    assert set_vendor_limits(session, collection, VendorLimits()).max_requests_per_second is None


def test_new_collection_adopts_the_limits_of_its_account(session: Session, collection: Collection) -> None:
    set_vendor_limits(session, collection, OWN)
    assert max_concurrency(make_collection(session, SAME_ACCOUNT)) == 2
    assert max_concurrency(make_collection(session, OTHER_ACCOUNT)) == 4


def test_changed_account_adopts_the_limits_of_the_new_one(session: Session, collection: Collection) -> None:
    other = make_collection(session, OTHER_ACCOUNT)
    set_vendor_limits(session, other, OWN)
    change_account(session, collection, library_id="birch")
    assert stored_limits(collection) == VendorLimits()
    change_account(session, collection, account_id="library.birch")
    assert stored_limits(collection) == OWN


def test_deleted_collection_does_not_share_its_limits(session: Session, collection: Collection) -> None:
    set_vendor_limits(session, collection, OWN)
    mark_for_deletion(collection)
    branch = make_collection(session, SAME_ACCOUNT)
    assert vendor_limits_view(session, branch).collections == ("Alder Branch",)
    assert stored_limits(branch) == VendorLimits()


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_concurrency": 0}, "The limit of 0 simultaneous requests is invalid: enter 1 to 32."),
        ({"max_concurrency": 33}, "The limit of 33 simultaneous requests is invalid: enter 1 to 32."),
        (
            {"max_requests_per_second": 0.001},
            "The limit of 0.001 requests per second is invalid: enter 0.01 to 1000.",
        ),
        ({"max_requests_per_second": float("nan")}, "The limit of nan requests per second is invalid"),
        ({"max_requests_per_second": 1001}, "The limit of 1001 requests per second is invalid"),
    ],
)
def test_invalid_limit_is_rejected(
    limits: dict[str, Any], error: str, session: Session, collection: Collection
) -> None:
    with pytest.raises(InvalidInput, match=error):
        set_vendor_limits(session, collection, VendorLimits(**limits))
