"""Which curves the figures make."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.chart import Chart, Line

_Rows = Sequence[Mapping[str, Any]]


def curves(figures: Mapping[str, Any]) -> dict[str, Chart]:
    """The charts by name, of the parts that were measured."""
    return {
        name: chart
        for part, draw in (("growth", _growth), ("scale", _scale), ("memory", _memory))
        if part in figures
        for name, chart in draw(figures[part])
    }


def _growth(rows: _Rows) -> Iterator[tuple[str, Chart]]:
    alone = [(row["titles"], row["milliseconds_per_title"]) for row in rows if row["days"] == 365]
    many = [(row["libraries"], row["milliseconds_per_title"]) for row in rows if row["days"] != 365]
    per_title = "milliseconds a title"
    yield (
        "growth-titles",
        Chart(
            "One library, its titles bought within a year",
            "titles",
            per_title,
            [Line("first import", alone)],
            log_x=True,
        ),
    )
    yield (
        "growth-libraries",
        Chart(
            "Libraries of 100 titles, imported at once",
            "libraries",
            per_title,
            [Line("first imports", many)],
            log_x=True,
        ),
    )


def _scale(rows: _Rows) -> Iterator[tuple[str, Chart]]:
    speeds = [(row["worker_processes"], row["titles_per_second"]) for row in rows]
    ideal = [(processes, speeds[0][1] * processes) for processes, _ in speeds]
    title = "Twenty libraries at once, 100 ms for each answer"
    lines = [Line("measured", speeds), Line("as many times as fast", ideal)]
    yield "scale", Chart(title, "worker processes", "titles a second", lines)


def _memory(rows: _Rows) -> Iterator[tuple[str, Chart]]:
    lines = [
        Line(
            f"{row['titles']:,} titles in {row['days']:,} days",
            [(point["links"], point["child"]) for point in row["curve"] if point["child"]],
        )
        for row in rows
    ]
    yield "memory", Chart("The largest child of the worker", "links of the chain", "MiB", lines)
