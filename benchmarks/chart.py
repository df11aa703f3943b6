"""Line charts as SVG files without scripts, legible on light and on dark pages."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 64, 60
_LEGEND_Y, _LEGEND_LINE, _CHARACTER_WIDTH = 42, 24, 7.2
_Scale: TypeAlias = Callable[[float], float]
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 } .title { font-weight: 600; font-size: 15px }
.grid { stroke: #ddd } .line { fill: none; stroke-width: 2.5 }
.point { stroke-width: 7; stroke-linecap: round }
.c0 { stroke: #0b62c4 } .c1 { stroke: #c4550b } .c2 { stroke: #2c8a3d } .c3 { stroke: #8a3d8a }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .grid { stroke: #444 }
.c0 { stroke: #6cb2ff } .c1 { stroke: #ffa566 } .c2 { stroke: #7fd68f } .c3 { stroke: #dd99dd }
}
"""


@dataclass(frozen=True)
class Line:
    """A line of a chart: its name and its points (x, y) from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A line chart. The y axis begins at zero; `log_x` makes the x axis logarithmic."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False


def render_svg(chart: Chart) -> str:
    """Return the chart as an SVG document."""
    xs = sorted({x for line in chart.lines for x, _ in line.points})
    y_ticks = axis_ticks(max(y for line in chart.lines for _, y in line.points))
    # The x axis is labelled with the measured values where there is room for them.
    x_ticks = xs if len(xs) <= 6 else axis_ticks(xs[-1])
    low, high = (xs[0], xs[-1]) if chart.log_x else (0.0, max(x_ticks))
    x_at = axis_scale(low, high, _LEFT, _WIDTH - _RIGHT, log=chart.log_x)
    y_at = axis_scale(0, y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(chart.title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="{_LEFT}" y="20">{escape(chart.title)}</text>',
        f'<text x="{(_LEFT + _WIDTH) // 2}" y="{_HEIGHT - 20}" text-anchor="middle">'
        f"{escape(chart.x_label)}</text>",
        f'<text transform="translate(16 {(_TOP + _HEIGHT - _BOTTOM) // 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart.y_label)}</text>",
    ]
    for y in y_ticks:
        parts.append(f'<path class="grid" d="M{_LEFT} {y_at(y):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y_at(y) + 4:.1f}" text-anchor="end">{y:,g}</text>')
    for x in x_ticks:
        parts.append(
            f'<text x="{x_at(x):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:,.10g}</text>'
        )
    return "\n".join((*parts, *_draw_lines(chart.lines, x_at, y_at), "</svg>\n"))


def _draw_lines(lines: Sequence[Line], x_at: _Scale, y_at: _Scale) -> Iterator[str]:
    """Yield each line, its points, and its entry in the legend."""
    legend_x: float = _LEFT
    for number, line in enumerate(lines):
        path = "L".join(f"{x_at(x):.1f} {y_at(y):.1f}" for x, y in line.points)
        points = "".join(f"M{x_at(x):.1f} {y_at(y):.1f}h0" for x, y in line.points)
        text_x = legend_x + _LEGEND_LINE + 6
        yield f'<path class="line c{number}" d="M{path}"/>'
        yield f'<path class="point c{number}" d="{points}"/>'
        yield f'<path class="line c{number}" d="M{legend_x:.1f} {_LEGEND_Y}h{_LEGEND_LINE}"/>'
        yield f'<text x="{text_x:.1f}" y="{_LEGEND_Y + 4}">{escape(line.name)}</text>'
        legend_x += _LEGEND_LINE + 24 + _CHARACTER_WIDTH * len(line.name)


def axis_scale(low: float, high: float, start: float, end: float, *, log: bool = False) -> _Scale:
    """Return the function that maps values from `low` to `high` to coordinates from `start` to `end`."""
    transform: _Scale = math.log if log else float
    span = transform(high) - transform(low) or 1.0
    return lambda value: start + (transform(value) - transform(low)) / span * (end - start)


def axis_ticks(highest: float) -> list[float]:
    """Return four to ten round numbers, from zero to the first that is at least `highest`."""
    power = 10.0 ** math.floor(math.log10(highest or 1))
    step = next(power * factor for factor in (0.2, 0.25, 0.5, 1, 2) if highest / (power * factor) <= 7)
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]
