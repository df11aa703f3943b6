"""Command `collections limit`."""

from sqlalchemy.orm import Session

from accession.accounts.limits import VendorLimits, stored_limits
from accession.auth.audit import AuditFilter, audit_entries
from accession.db.models import Collection
from tests.fixtures.commands import Cli
from tests.fixtures.factories import make_collection

LIMIT = ("collections", "limit", "Alder Library")


def test_limits_are_shown(cli: Cli, collection: Collection) -> None:
    assert cli(*LIMIT, "--json").json == [
        {
            "max_concurrency": 4,
            "max_requests_per_second": None,
            "inherited": ["max_concurrency", "max_requests_per_second"],
            "collections": ["Alder Library"],
        }
    ]
    assert "unlimited" in cli(*LIMIT).stdout


def test_limits_are_changed_for_all_collections_of_the_account(
    cli: Cli, session: Session, collection: Collection
) -> None:
    branch = make_collection(session, "Alder Branch")
    (shown,) = cli(*LIMIT, "--concurrency", "2", "--requests-per-second", "0.5", "--json").json
    assert shown["collections"] == ["Alder Branch", "Alder Library"]
    session.expire_all()
    assert stored_limits(collection) == stored_limits(branch) == VendorLimits(2, 0.5)
    (entry,) = audit_entries(session, AuditFilter(action="collection.set_limits"), limit=2)
    assert (entry.subject, entry.details["max_concurrency"]) == ("Alder Library", 2)


def test_limit_that_is_not_given_stays(cli: Cli, session: Session, collection: Collection) -> None:
    cli(*LIMIT, "--concurrency", "2")
    cli(*LIMIT, "--requests-per-second", "5")
    session.expire_all()
    assert stored_limits(collection) == VendorLimits(2, 5)
    cli(*LIMIT, "--default")
    session.expire_all()
    assert stored_limits(collection) == VendorLimits()


def test_invalid_limit_is_rejected(cli: Cli, collection: Collection) -> None:
    error = cli(*LIMIT, "--concurrency", "0").error
    assert error == "The limit of 0 simultaneous requests is invalid: enter 1 to 32."


def test_default_with_new_limits_is_rejected(cli: Cli, collection: Collection) -> None:
    result = cli(*LIMIT, "--concurrency", "2", "--default")
    assert result.exit_code == 2
    assert "give either --default or new limits" in result.stderr
