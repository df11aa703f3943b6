"""Timeline of the runs of the last hours: one row of bars per workflow, drawn on the server."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from markupsafe import Markup

from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.runs.run_hours import RunHourView
from accession.web.addresses import root

_BAR, _GAP = 10, 2
_ABOVE, _BELOW = 30, 14
# Bars of few runs must not vanish beside those of many.
_MIN_HEIGHT = 4


@dataclass(frozen=True)
class TimelineHour:
    """An hour of a row: its begin and end (UTC), its runs, and the path of their list."""

    start: datetime
    end: datetime
    succeeded: int
    failed: int
    cancelled: int
    path: str

    @property
    def description(self) -> str:
        """Return the numbers of runs in words, with the hour."""
        counts = {"succeeded": self.succeeded, "failed": self.failed, "cancelled": self.cancelled}
        numbers = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
        return f"{self.start:%H:%M} to {self.end:%H:%M} UTC: {numbers}"


@dataclass(frozen=True)
class TimelineLane:
    """A row of the timeline: a workflow and its hours with runs, drawn as `chart`."""

    workflow: str
    hours: Sequence[TimelineHour]
    chart: Markup

    @property
    def runs(self) -> int:
        """Return the number of runs."""
        return sum(hour.succeeded + hour.failed + hour.cancelled for hour in self.hours)

    @property
    def failed(self) -> int:
        """Return the number of runs that failed or were interrupted."""
        return sum(hour.failed for hour in self.hours)


def timeline_lanes(hours: Sequence[RunHourView], starts: Sequence[datetime]) -> list[TimelineLane]:
    """Return a row for each scheduled workflow, and for others with runs; none without any runs.

    `starts` are the beginnings of all hours, also of those without runs.
    """
    if not hours:
        return []
    return [
        _lane(workflow, [hour for hour in hours if hour.workflow == workflow], starts)
        for workflow in Workflow
        if workflow in SCHEDULED_WORKFLOWS or any(hour.workflow == workflow for hour in hours)
    ]


def _lane(workflow: Workflow, hours: Sequence[RunHourView], starts: Sequence[datetime]) -> TimelineLane:
    shown = [_hour(hour) for hour in hours]
    most = max((max(hour.succeeded, hour.failed) for hour in shown), default=0)
    bars = (_bar(hour, starts.index(hour.start), most) for hour in shown if hour.start in starts)
    # The table has the same links for the keyboard and for screen readers.
    chart = Markup(
        '<svg class="timeline" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">'
        '{}<line x1="0" x2="{}" y1="{}" y2="{}"/></svg>'
    ).format(len(starts) * _BAR, _ABOVE + _BELOW, Markup("").join(bars), len(starts) * _BAR, _ABOVE, _ABOVE)
    return TimelineLane(workflow.value, shown, chart)


def _hour(hour: RunHourView) -> TimelineHour:
    end = hour.hour + timedelta(hours=1)
    times = {"ended_since": f"{hour.hour:%Y-%m-%dT%H:%MZ}", "ended_before": f"{end:%Y-%m-%dT%H:%MZ}"}
    path = f"/runs?{urlencode({'workflow': hour.workflow, **times})}"
    return TimelineHour(hour.hour, end, hour.succeeded, hour.failures, hour.cancelled, path)


def _bar(hour: TimelineHour, position: int, most: int) -> Markup:
    """Return the bars of an hour, which link to its runs: succeeded ones upwards, failed ones downwards."""
    above, below = _height(hour.succeeded, most, _ABOVE), _height(hour.failed, most, _BELOW)
    return Markup(
        '<a class="chart-column" href="{}" tabindex="-1"><title>{}</title>'
        '<rect class="hour" x="{}" y="0" width="{}" height="{}"/>'
        '<rect class="succeeded" x="{}" y="{}" width="{}" height="{}"/>'
        '<rect class="failed" x="{}" y="{}" width="{}" height="{}"/></a>'
    ).format(
        root() + hour.path,
        hour.description,
        *(position * _BAR, _BAR, _ABOVE + _BELOW),
        *(position * _BAR + _GAP / 2, _ABOVE - above, _BAR - _GAP, above),
        *(position * _BAR + _GAP / 2, _ABOVE, _BAR - _GAP, below),
    )


def _height(number: int, most: int, available: int) -> float:
    return round(max(_MIN_HEIGHT, available * number / most), 1) if number else 0
