"""Timeline of runs: bars stay within their row, whatever the numbers."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from accession.core.workflow import Workflow
from accession.runs.run_hours import RunHourView
from accession.web.pages.timeline import timeline_lanes

START = datetime(2024, 5, 1, tzinfo=UTC)
STARTS = [START + timedelta(hours=number) for number in range(24)]
COUNTS = st.integers(0, 10**6)


HOURS = st.builds(
    RunHourView,
    hour=st.sampled_from(STARTS),
    workflow=st.just(Workflow.EVENTS.value),
    succeeded=COUNTS,
    failed=COUNTS,
    interrupted=COUNTS,
    cancelled=COUNTS,
    records_fetched=COUNTS,
    titles_new=COUNTS,
)


@given(st.lists(HOURS, min_size=1, unique_by=lambda view: view.hour))
def test_bars_stay_within_their_row(views: list[RunHourView]) -> None:
    (lane,) = [lane for lane in timeline_lanes(views, STARTS) if lane.workflow == "events"]
    chart = etree.fromstring(str(lane.chart))
    _, _, width, height = map(float, chart.get("viewBox", "").split())
    for bar in chart.iter("rect"):
        x, y, bar_width, bar_height = (float(bar.get(name, "")) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + bar_width <= width
        assert 0 <= y <= y + bar_height <= height
    assert lane.runs == sum(view.runs for view in views)
    assert lane.failed == sum(view.failures for view in views)


def test_hour_with_runs_has_visible_bars() -> None:
    """A single failure must be seen beside hundreds of successes."""
    views = [RunHourView(START, "events", 1000, 1, 0, 0, 0, 0)]
    lane = timeline_lanes(views, STARTS)[1]
    (failed,) = etree.fromstring(str(lane.chart)).iterfind(".//rect[@class='failed']")
    assert float(failed.get("height", "")) == 4


def test_timeline_without_runs_is_empty() -> None:
    assert timeline_lanes([], STARTS) == []
