"""SVG charts, drawn on the server; style sheet classes give them the colours of the page's theme."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 640, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 10, 24
_SPARK_WIDTH, _SPARK_HEIGHT = 96, 24
_SHARE_HEIGHT = 16
_MAX_LABELS = 8


@dataclass(frozen=True)
class DataPoint:
    """A value of a chart and its label."""

    label: str
    value: float


def sparkline(values: Sequence[float], description: str) -> Markup:
    """Return a small bar chart without axes; `description` is its text for screen readers."""
    top, width = max([*values, 1]), _SPARK_WIDTH / max(len(values), 1)
    shapes = Markup("").join(
        _bar(index * width, _SPARK_HEIGHT, width * 0.8, _SPARK_HEIGHT * value / top)
        for index, value in enumerate(values)
        if value
    )
    return _svg("sparkline", _SPARK_WIDTH, _SPARK_HEIGHT, description, shapes)


def share_chart(shares: Sequence[DataPoint], description: str) -> Markup:
    """Return a bar that is divided in proportion to the values; each part shows its label on hover."""
    total, x, shapes = sum(share.value for share in shares) or 1, 0.0, Markup("")
    for number, share in enumerate(shares):
        width = WIDTH * share.value / total
        shapes += Markup('<g class="share-{}">{}<title>{}</title></g>').format(
            number, _bar(x, _SHARE_HEIGHT, width, _SHARE_HEIGHT), share.label
        )
        x += width
    return _svg("shares", WIDTH, _SHARE_HEIGHT, description, shapes)


def bar_chart(points: Sequence[DataPoint], description: str) -> Markup:
    """Return a bar chart that shows each bar's label and value on hover."""
    top = _axis_maximum(points)
    width = (WIDTH - _LEFT - _RIGHT) / max(len(points), 1)
    shapes = Markup("").join(
        Markup("<g>{}<title>{}: {}</title></g>").format(
            _bar(_x(index, len(points)), HEIGHT - _BOTTOM, max(width * 0.85, 0.5), _height(point.value, top)),
            point.label,
            _format(point.value),
        )
        for index, point in enumerate(points)
    )
    return _svg("chart", WIDTH, HEIGHT, description, _axes(points, top) + shapes)


def line_chart(points: Sequence[DataPoint], description: str) -> Markup:
    """Return a line chart with the area below the line filled; each point shows label and value on hover."""
    top, bottom = _axis_maximum(points), HEIGHT - _BOTTOM
    coordinates = [
        f"{_x(index + 0.5, len(points)):.1f},{bottom - _height(point.value, top):.1f}"
        for index, point in enumerate(points)
    ]
    first, last = _x(0.5, len(points)), _x(len(points) - 0.5, len(points))
    area = f"{first:.1f},{bottom} {' '.join(coordinates)} {last:.1f},{bottom}"
    shapes = Markup('<polygon class="area" points="{}"/><polyline class="line" points="{}"/>').format(
        area, " ".join(coordinates)
    )
    width = (WIDTH - _LEFT - _RIGHT) / max(len(points), 1)
    tooltips = Markup("").join(
        Markup('<g class="hover">{}<title>{}: {}</title></g>').format(
            _bar(_x(index, len(points)), bottom, width, bottom - _TOP), point.label, _format(point.value)
        )
        for index, point in enumerate(points)
    )
    return _svg("chart", WIDTH, HEIGHT, description, _axes(points, top) + shapes + tooltips)


def _svg(name: str, width: int, height: int, description: str, shapes: Markup) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        name, width, height, description, shapes
    )


def _bar(x: float, bottom: float, width: float, height: float) -> Markup:
    return Markup('<rect x="{}" y="{}" width="{}" height="{}"/>').format(
        f"{x:.1f}", f"{bottom - height:.1f}", f"{width:.1f}", f"{height:.1f}"
    )


def _axes(points: Sequence[DataPoint], top: float) -> Markup:
    """Return grid lines at 0, 50 and 100 % of the axis maximum, and labels for up to `_MAX_LABELS` points."""
    grid = Markup("").join(
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" class="end">{}</text>'
        ).format(_LEFT, WIDTH - _RIGHT, y, y, _LEFT - 6, y + 4, _format(value))
        for value in (0, top / 2, top)
        for y in [round(HEIGHT - _BOTTOM - _height(value, top))]
    )
    step = -(-len(points) // _MAX_LABELS) or 1
    labels = Markup("").join(
        Markup('<text x="{}" y="{}">{}</text>').format(
            f"{_x(index, len(points)):.1f}", HEIGHT - 6, points[index].label
        )
        for index in range(0, len(points), step)
    )
    return grid + labels


def _format(value: float) -> str:
    """Return a whole number as it is, any other with two decimals."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"


def _axis_maximum(points: Sequence[DataPoint]) -> float:
    """Return the highest value, rounded up to a round number."""
    highest = max([point.value for point in points] + [1])
    digits = float(10 ** (len(str(int(highest))) - 1))
    return next(digits * step for step in (1, 2, 4, 6, 8, 10) if digits * step >= highest)


def _height(value: float, top: float) -> float:
    return (HEIGHT - _TOP - _BOTTOM) * value / top


def _x(index: float, count: int) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * index / max(count, 1)
