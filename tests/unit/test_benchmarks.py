"""What the documentation says of speed is what was measured."""

import json
from pathlib import Path

import pytest
from lxml import etree

from benchmarks.chart import Chart, Line, svg
from benchmarks.curves import curves
from benchmarks.report import filled

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FIGURES = json.loads((DOCS / "performance" / "figures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["docs/performance.md", "README.md"])
def test_the_tables_of_a_page_are_the_figures(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    assert filled(page, FIGURES) == page


def test_the_curves_of_the_performance_page_are_the_figures() -> None:
    drawn = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "performance").glob("*.svg")}
    assert drawn == {name: svg(chart) for name, chart in curves(FIGURES).items()}


def test_a_table_takes_the_place_of_the_one_before_and_leaves_the_others() -> None:
    page = "Before\n<!-- figures: a.b -->\n| old |\n<!-- end -->\n<!-- figures: c -->\nold\n<!-- end -->\n"
    rows = [
        {"way": "plain", "titles": 2000, "seconds": 1.25, "curve": [1]},
        {"way": "days", "titles": 9, "seconds": 88.5},
    ]
    assert filled(page, {"a": {"b": rows}}) == (
        "Before\n<!-- figures: a.b -->\n"
        "| way | titles | seconds |\n| --- | ---: | ---: |\n| plain | 2,000 | 1.25 |\n| days | 9 | 88.5 |\n"
        "<!-- end -->\n<!-- figures: c -->\nold\n<!-- end -->\n"
    )


def test_a_chart_is_a_document_whose_axis_begins_at_zero_and_ends_above_what_was_measured() -> None:
    lines = [Line("A & B", [(1, 31.4), (10, 12)]), Line("C", [(1, 5), (10, 5)])]
    root = etree.fromstring(svg(Chart("Titles <a second>", "processes", "titles", lines, log_x=True)))
    said = [element.text for element in root.iter("{*}text")]
    assert {"Titles <a second>", "A & B", "C", "processes", "titles", "0", "35", "1", "10"} <= set(said)
