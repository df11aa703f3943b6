"""The performance documentation shows the measured figures."""

import json
from pathlib import Path

import pytest
from lxml import etree

from benchmarks.chart import Chart, Line, render_svg
from benchmarks.figure_charts import build_charts
from benchmarks.report import fill_tables

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FIGURES = json.loads((DOCS / "performance" / "figures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["docs/performance.md", "README.md"])
def test_tables_of_page_match_figures(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    assert fill_tables(page, FIGURES) == page


def test_charts_of_performance_page_match_figures() -> None:
    files = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "performance").glob("*.svg")}
    assert files == {name: render_svg(chart) for name, chart in build_charts(FIGURES).items()}


def test_fill_tables_replaces_only_measured_tables() -> None:
    page = "Before\n<!-- figures: a.b -->\n| old |\n<!-- end -->\n<!-- figures: c -->\nold\n<!-- end -->\n"
    rows = [
        {"method": "plain", "titles": 2000, "seconds": 1.25, "curve": [1]},
        {"method": "days", "titles": 9, "seconds": 88.5},
    ]
    assert fill_tables(page, {"a": {"b": rows}}) == (
        "Before\n<!-- figures: a.b -->\n"
        "| method | titles | seconds |\n| --- | ---: | ---: |\n"
        "| plain | 2,000 | 1.25 |\n| days | 9 | 88.5 |\n"
        "<!-- end -->\n<!-- figures: c -->\nold\n<!-- end -->\n"
    )


def test_chart_escapes_text_and_y_axis_covers_all_values() -> None:
    lines = [Line("A & B", [(1, 31.4), (10, 12)]), Line("C", [(1, 5), (10, 5)])]
    chart = Chart("Titles <per second>", "processes", "titles", lines, log_x=True)
    root = etree.fromstring(render_svg(chart))
    texts = {element.text for element in root.iter("{*}text")}
    assert {"Titles <per second>", "A & B", "C", "processes", "titles", "0", "35", "1", "10"} <= texts
