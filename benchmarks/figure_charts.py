"""Line charts of the measured figures, for docs/performance.md."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.chart import Chart, Line

_Rows = Sequence[Mapping[str, Any]]


def build_charts(figures: Mapping[str, Any]) -> dict[str, Chart]:
    """Return the charts by file name, without those of parts that were not measured."""
    return {
        name: chart
        for part, build in (("growth", _growth_charts), ("scale", _scale_charts), ("memory", _memory_charts))
        if part in figures
        for name, chart in build(figures[part])
    }


def _growth_charts(rows: _Rows) -> Iterator[tuple[str, Chart]]:
    one_library = [(row["titles"], row["milliseconds_per_title"]) for row in rows if row["days"] == 365]
    many_libraries = [(row["libraries"], row["milliseconds_per_title"]) for row in rows if row["days"] != 365]
    y_label = "milliseconds per title"
    yield (
        "growth-titles",
        Chart(
            "One library, all titles purchased within a year",
            "titles",
            y_label,
            [Line("first import", one_library)],
            log_x=True,
        ),
    )
    yield (
        "growth-libraries",
        Chart(
            "Libraries with 100 titles each, imported concurrently",
            "libraries",
            y_label,
            [Line("first imports", many_libraries)],
            log_x=True,
        ),
    )


def _scale_charts(rows: _Rows) -> Iterator[tuple[str, Chart]]:
    measured = [(row["worker_processes"], row["titles_per_second"]) for row in rows]
    linear = [(processes, measured[0][1] * processes) for processes, _ in measured]
    title = "Twenty libraries imported concurrently, vendor latency 100 ms"
    lines = [Line("measured", measured), Line("linear speedup", linear)]
    yield "scale", Chart(title, "worker processes", "titles per second", lines)


def _memory_charts(rows: _Rows) -> Iterator[tuple[str, Chart]]:
    lines = [
        Line(
            f"{row['titles']:,} titles in {row['days']:,} days",
            [(point["steps"], point["child"]) for point in row["curve"] if point["child"]],
        )
        for row in rows
    ]
    yield "memory", Chart("Memory of the largest worker child", "steps of the run", "MiB", lines)
