"""Repeated harvests by VuFind: nothing is missed, and nothing is harvested again for ever."""

from datetime import timedelta

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.db.engine import engine
from accession.db.models import Collection, Edition, LicensePool
from tests.fixtures.factories import apply_titles, make_pool, title_data
from tests.fixtures.oai import OAI, change, fill, send_request, texts
from tests.fixtures.vufind import VuFindHarvester

RULES = pytest.mark.parametrize("by_last_page", [False, True], ids=["version 5", "before version 5"])


def set_age(session: Session, seconds: float, *numbers: int) -> None:
    """Set how long ago titles were modified, by their numbers."""
    for table in (LicensePool, Edition):
        modified_at = utc_now() - timedelta(seconds=seconds)
        session.execute(update(table).where(table.id.in_(numbers)).values(updated_at=modified_at))
    session.commit()


def hours_ago(hours: int) -> str:
    """Return a time as the harvester stores it."""
    return f"{utc_now() - timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"


def modify(session: Session, *numbers: int, **changes: object) -> None:
    """Change the metadata or counts of titles."""
    for number in numbers:
        pool = session.get_one(LicensePool, number)
        change(session, pool, f"t{number}", **({"title": f"Changed at {utc_now()}"} | changes))


@RULES
def test_harvest_during_changes_misses_nothing(
    session: Session, collection: Collection, by_last_page: bool
) -> None:
    fill(session, collection, 250)
    vufind = VuFindHarvester(session, by_last_page=by_last_page)
    # Titles of pages that were read, and of pages to come; the last one has the latest modification time.
    changes = iter([(7, 150), (8, 120, 249)])
    vufind.harvest(lambda: modify(session, *next(changes)))
    modify(session, 9, licenses_owned=0, licenses_available=0)
    assert set(vufind.harvest()) >= {"t7", "t8", "t9"}
    assert vufind.titles == {f"t{number}" for number in range(1, 251)} - {"t9"}


@RULES
def test_late_transaction_is_harvested(session: Session, collection: Collection, by_last_page: bool) -> None:
    fill(session, collection, 150)
    vufind = VuFindHarvester(session, by_last_page=by_last_page)
    # The contributors are stored, so that neither transaction waits for the other.
    modify(session, 140)
    with Session(engine()) as writing:
        pool = writing.get_one(LicensePool, 7)
        apply_titles(writing, {pool.id: title_data("t7", as_of=utc_now())})
        modify(session, 140)
        vufind.harvest()
        writing.commit()
    assert "t7" in vufind.harvest()


@RULES
def test_old_changes_are_harvested_once(session: Session, collection: Collection, by_last_page: bool) -> None:
    fill(session, collection, 250)
    vufind = VuFindHarvester(session, by_last_page=by_last_page)
    # The latest changes are on the first page, in the same second.
    set_age(session, 3_600, 10, 20)
    assert sorted(vufind.harvest()) == sorted(f"t{number}" for number in range(1, 251))
    # Older versions use the datestamps of the last page, and so receive those of its second again.
    again = {"t10", "t20"} if by_last_page else set()
    assert [set(vufind.harvest()) for _ in range(2)] == [again] * 2
    modify(session, 30)
    assert set(vufind.harvest()) == again | {"t30"}


@RULES
def test_changes_of_many_pages_are_harvested_once(
    session: Session, collection: Collection, by_last_page: bool
) -> None:
    fill(session, collection, 450)
    vufind = VuFindHarvester(session, by_last_page=by_last_page, last_harvest=hours_ago(3))
    # The latest of these changes is on the first page.
    changed = range(1, 450, 2)
    set_age(session, 7_200, *changed)
    set_age(session, 3_600, 5)
    assert sorted(vufind.harvest()) == sorted(f"t{number}" for number in changed)
    assert vufind.harvest() == (["t5"] if by_last_page else [])


@RULES
def test_days_are_harvested_again_until_they_end(
    session: Session, collection: Collection, by_last_page: bool
) -> None:
    fill(session, collection, 150)
    vufind = VuFindHarvester(session, by_last_page=by_last_page, granularity=10)
    modify(session, 3, licenses_owned=0, licenses_available=0)
    vufind.harvest()
    modify(session, 4)
    # Those of the day, not those of the days before.
    assert set(vufind.harvest()) == {"t3", "t4"}
    assert "t3" not in vufind.titles
    set_age(session, timedelta(days=1).total_seconds(), 3, 4)
    vufind.last_harvest = f"{utc_now():%Y-%m-%d}"
    assert vufind.harvest() == []


@RULES
def test_interrupted_harvest_continues(session: Session, collection: Collection, by_last_page: bool) -> None:
    fill(session, collection, 250)
    vufind = VuFindHarvester(session, by_last_page=by_last_page)

    def interrupt() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        vufind.harvest(interrupt)
    modify(session, 7)
    vufind.harvest()
    assert len(vufind.titles) == 250
    assert "t7" in vufind.harvest()


def test_list_whose_end_has_gone_is_restarted(session: Session, collection: Collection) -> None:
    """VuFind keeps the token of a list that ends with noRecordsMatch, and would never harvest again."""
    fill(session, collection, 101)
    make_pool(session, collection, "of no format")
    selection = {"verb": "ListIdentifiers", "metadataPrefix": "marc21", "set": "format:epub"}
    page = send_request(session, **selection)
    session.execute(text("UPDATE editions SET format = 'pdf'"))
    session.commit()
    token = texts(page, "ListIdentifiers/resumptionToken")[0]
    rest = send_request(session, verb="ListIdentifiers", resumptionToken=token)
    assert [error.get("code") for error in rest.iterfind(f"{OAI}error")] == ["badResumptionToken"]


def test_datestamp_in_list_is_not_after_response_date(session: Session, collection: Collection) -> None:
    """A harvester may start its next harvest at any datestamp of this one."""
    fill(session, collection, 150)
    modify(session, 3, 149)
    page = send_request(session, verb="ListIdentifiers", metadataPrefix="marc21")
    (response_date,) = texts(page, "responseDate")
    assert max(texts(page, "ListIdentifiers/header/datestamp")) == response_date
    assert texts(send_request(session, verb="Identify"), "Identify/earliestDatestamp") < [response_date]
    start = f"{utc_now():%Y-%m-%dT%H:%M:%SZ}"
    set_age(session, -5, 3)
    page = send_request(session, verb="ListIdentifiers", metadataPrefix="marc21", from_=start)
    assert set(texts(page, "ListIdentifiers/header/datestamp")) == {start}
