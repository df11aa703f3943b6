"""Charts: their scale, bars that are cut off, texts on hover, and links."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html

from accession.web.pages.charts import HEIGHT, DataPoint, bar_chart, line_chart

MONTHS = 150


def months(*values: float) -> list[DataPoint]:
    return [DataPoint(f"month {number}", value) for number, value in enumerate(values)]


def draw(points: Sequence[DataPoint], unit: str = "purchases") -> html.HtmlElement:
    return html.fragment_fromstring(str(bar_chart(points, "Purchases per month", unit)), "div")


def scale(chart: html.HtmlElement) -> list[str]:
    return [str(text) for text in chart.xpath(".//*[contains(@class, 'chart-axis')]/text/text()")]


def test_single_high_bar_does_not_flatten_the_others() -> None:
    chart = draw(months(*[3] * 70, 211, *[5] * 80))

    assert scale(chart) == ["0", "3", "6"]
    assert len(chart.xpath(".//rect[@class='cut']")) == 1
    assert "Higher than the scale: month 70 (211 purchases)." in chart.text_content()


def test_chart_of_similar_values_shows_all_of_them() -> None:
    chart = draw(months(*range(1, MONTHS)))

    assert scale(chart) == ["0", "100", "200"]
    assert not chart.xpath(".//rect[@class='cut']")


def test_few_bars_are_not_cut_off() -> None:
    assert scale(draw(months(1, 2, 211))) == ["0", "150", "300"]


def test_column_has_a_text_with_unit() -> None:
    texts = [str(text) for text in draw(months(0, 1, 1200)).xpath(".//title/text()")]

    assert texts == ["month 0: 0 purchases", "month 1: 1 purchase", "month 2: 1,200 purchases"]


def test_one_of_a_unit_with_per_is_in_the_singular() -> None:
    texts = [str(text) for text in draw(months(0.5, 1), "loans per copy").xpath(".//title/text()")]

    assert texts == ["month 0: 0.50 loans per copy", "month 1: 1 loan per copy"]


def test_linked_chart_is_hidden_from_keyboard_and_readers() -> None:
    """The table beside it has the same links."""
    chart = draw([DataPoint("2019-03", 4, path="/titles?collection=1&purchased_from=2019-03-01")])

    (link,) = chart.xpath(".//a")
    assert link.get("href") == "/titles?collection=1&purchased_from=2019-03-01"
    assert link.get("tabindex") == "-1"
    assert chart.xpath(".//*[@class='chart']/@aria-hidden") == ["true"]


def test_axis_has_the_ticks_of_the_points() -> None:
    points = [DataPoint(f"{year}-01", 1, tick=str(year)) for year in (2014, 2015)]
    chart = draw([points[0], DataPoint("2014-02", 2), points[1]])

    assert chart.xpath(".//*[contains(@class, 'chart-plot')]/text/text()") == ["2014", "2015"]


def test_long_labels_of_an_axis_are_shortened() -> None:
    labels = [*["2024-05-01"] * 6, "Modern Greek (1453-)", "Luxembourgish"]
    chart = draw([DataPoint(label, 1) for label in labels])

    shown = chart.xpath(".//*[contains(@class, 'chart-plot')]/text/text()")
    assert shown == [*["2024-05-01"] * 6, "Modern Gr…", "Luxembour…"]
    assert "Luxembourgish: 1 purchase" in chart.xpath(".//title/text()")


@pytest.mark.parametrize("draw_chart", [bar_chart, line_chart])
def test_empty_chart_is_drawn(draw_chart: Callable[[Sequence[DataPoint], str], str]) -> None:
    assert "chart-plot" in draw_chart([], "Nothing")


@given(st.lists(st.integers(0, 10**9) | st.floats(0, 1e6), max_size=60))
def test_every_bar_fits_the_chart(values: list[float]) -> None:
    chart = draw(months(*values))

    bars = chart.xpath(".//rect[@class='bar']")
    assert len(bars) == sum(value > 0 for value in values)
    for bar in bars:
        top, height = float(bar.get("y")), float(bar.get("height"))
        assert 0 <= top <= top + height <= HEIGHT
