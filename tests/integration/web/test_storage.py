"""Storage and totals of runs: pages and API."""

from datetime import timedelta

import pytest
import time_machine
from lxml import html
from redis import Redis
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import AuditEntry, Collection, RunState, TableSize
from accession.db.sizes import record_table_sizes
from accession.runs.ledger import RunCounters, end_run, find_run, open_run, record_step
from tests.fixtures.web_client import Browser


def add_run(
    session: Session,
    collection: Collection,
    task_id: str,
    days: int = 91,
    state: RunState = RunState.SUCCEEDED,
) -> None:
    """Add and commit a run of seven records that ended some days ago."""
    with time_machine.travel(utc_now() - timedelta(days=days), tick=False):
        open_run(session, collection.id, Workflow.EVENTS, task_id, {})
        run = find_run(session, task_id)
        assert run is not None
        counters = RunCounters(records_fetched=7, records_stored=7)
        record_step(run, counters, since=None, next_cursor={"offset": 2})
        end_run(run, state)
        session.commit()


def table_rows(page: str, row_heading: str) -> list[str]:
    """Return the cells of the table row with this heading."""
    rows = html.fromstring(page).xpath(f"//tr[starts-with(normalize-space(th), '{row_heading}')]/td")
    return [cell.text_content().strip() for cell in rows]


def test_page_shows_what_is_kept_and_deleted(
    session: Session, collection: Collection, browser: Browser
) -> None:
    for number in range(3):
        add_run(session, collection, f"task-{number}")
    page = browser.get("/storage").text

    cells = table_rows(page, "Ended runs")
    assert (cells[0], cells[3], cells[4]) == ("3", "90 days", "2")
    assert "ACCESSION_RETENTION_DAYS_RUNS" in page
    assert table_rows(page, "circulation_events")
    assert "known after a day" in page


def test_page_shows_growth_and_chart(session: Session, database: None, browser: Browser) -> None:
    for days in (1, 0):
        record_table_sizes(session, utc_now() - timedelta(days=days))
    session.execute(update(TableSize).values(bytes=1_000_000))
    session.commit()
    page = browser.get("/storage").text

    assert "per day" in page
    assert "Size of tables and indexes in megabytes, by day" in page


def test_form_queues_the_deletion(
    session: Session, collection: Collection, browser: Browser, queues: Redis
) -> None:
    response = browser.post("/storage/prune")

    assert response.status_code == 303
    assert "Old rows are being deleted" in browser.get("/storage").text
    assert queues.llen("default") == 1
    assert session.scalars(select(AuditEntry.action)).all() == ["database.prune"]


def test_viewer_cannot_delete(browser: Browser, vic: str, queues: Redis) -> None:
    browser.log_in(vic)
    page = browser.get("/storage")
    assert page.status_code == 200
    assert "Delete old rows now" not in page.text
    assert browser.post("/storage/prune").status_code == 403
    assert browser.post("/api/v1/storage/prune").status_code == 403
    assert queues.llen("default") == 0


def test_api_returns_sizes_and_retention(session: Session, collection: Collection, browser: Browser) -> None:
    for number in range(3):
        add_run(session, collection, f"task-{number}")
    storage = browser.get("/api/v1/storage").json()

    runs = next(kind for kind in storage["tables"]["retention"] if kind["name"] == "runs")
    assert (runs["rows"], runs["days"], runs["prunable_rows"]) == (3, 90, 2)
    assert {table["name"] for table in storage["tables"]["tables"]} >= {"runs", "editions"}


def test_api_queues_the_deletion(database: None, browser: Browser, queues: Redis) -> None:
    response = browser.post("/api/v1/storage/prune")

    assert response.status_code == 202
    assert response.json()["task_id"]
    assert queues.llen("default") == 1


def test_api_lists_runs_per_day(session: Session, collection: Collection, browser: Browser) -> None:
    add_run(session, collection, "old", days=31)
    add_run(session, collection, "1", days=29)
    add_run(session, collection, "2", days=29, state=RunState.FAILED)

    days = browser.get("/api/v1/runs/days").json()
    assert [(day["day"], day["succeeded"], day["failed"], day["records_fetched"]) for day in days] == [
        ((utc_now() - timedelta(days=29)).date().isoformat(), 1, 1, 14)
    ]
    assert len(browser.get("/api/v1/runs/days?days=40&workflow=events").json()) == 2
    assert browser.get("/api/v1/runs/days?workflow=purchases").json() == []
    assert browser.get("/api/v1/runs/days?collection=99").status_code == 404


def test_page_of_runs_per_day_has_charts_and_table(
    session: Session, collection: Collection, browser: Browser
) -> None:
    add_run(session, collection, "1", days=29)
    page = browser.get(f"/runs/days?collection={collection.id}&workflow=events&days=30").text

    day = (utc_now() - timedelta(days=29)).date()
    assert table_rows(page, day.isoformat())[:3] == ["1", "0", "0"]
    assert f"{day}: 7 records" in page
    # One bar for each day, also those without runs.
    chart = html.fromstring(page).xpath("//*[@role='img'][@aria-label='Runs per day']")[0]
    assert len(chart.xpath(".//*[local-name()='rect'][@class='hit']")) == 30
    units = chart.xpath("//*[@class='chart']/preceding-sibling::div[1]/text()")
    assert units == ["Runs", "Failed runs", "Records", "New titles"]


def test_long_times_are_shown_by_week(session: Session, collection: Collection, browser: Browser) -> None:
    for number, days in enumerate((400, 399, 1)):
        add_run(session, collection, str(number), days=days)
    page = browser.get("/runs/days?days=1825").text

    first = (utc_now() - timedelta(days=400)).date()
    assert "Records per week" in page
    assert f"{first}: 14 records" in page


@pytest.mark.parametrize("path", ["/storage", "/runs/days", "/runs/days?days=365"])
def test_page_of_empty_installation_is_shown(path: str, database: None, browser: Browser) -> None:
    assert browser.get(path).status_code == 200
