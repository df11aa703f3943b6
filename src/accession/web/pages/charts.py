"""SVG charts, drawn on the server; style sheet classes give them the colours of the page's theme.

Charts fill the width of their place: horizontal positions are percentages, vertical ones pixels. Texts keep
their size.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from accession.web.addresses import root

HEIGHT = 180
_TOP, _BOTTOM = 10, 24
_PLOT_HEIGHT = HEIGHT - _TOP - _BOTTOM
# Bars of small values must not vanish beside those of large ones.
_MIN_BAR_HEIGHT = 2
# Per cent of the width.
_MAX_BAR_WIDTH = 6
_SPARK_WIDTH, _SPARK_HEIGHT = 96, 24
_SHARE_WIDTH, _SHARE_HEIGHT = 640, 16
_MAX_LABELS = 8
# Of all labels of an axis together. They fit the width from which all of them are shown.
_MAX_LABEL_CHARACTERS = 80
# Of at least so many bars, those are cut off that are more than three times as high as 95 % of them.
_MIN_BARS_TO_CUT = 20
_CUT_SHARE = 0.05
_CUT_RATIO = 3
_MIN_VALUE_TO_CUT = 20
_MAX_CUT_BARS_NAMED = 4
# The plural's ending in a unit such as "purchases" or "loans per copy".
_PLURAL = re.compile("s(?= per |$)")


@dataclass(frozen=True)
class DataPoint:
    """A value of a chart and its label.

    `path` is the page that the value leads to. If any point has a `tick`, the axis has the ticks instead of
    the labels.
    """

    label: str
    value: float
    path: str = ""
    tick: str = ""


def sparkline(values: Sequence[float], description: str) -> Markup:
    """Return a small bar chart without axes; `description` is its text for screen readers."""
    top, width = max([*values, 1]), _SPARK_WIDTH / max(len(values), 1)
    shapes = Markup("").join(
        _rect(index * width, _SPARK_HEIGHT, width * 0.8, _SPARK_HEIGHT * value / top)
        for index, value in enumerate(values)
        if value
    )
    return _scaled_svg("sparkline", _SPARK_WIDTH, _SPARK_HEIGHT, description, shapes)


def share_chart(shares: Sequence[DataPoint], description: str) -> Markup:
    """Return a bar that is divided in proportion to the values; each part shows its label on hover."""
    total, x, shapes = sum(share.value for share in shares) or 1, 0.0, Markup("")
    for number, share in enumerate(shares):
        width = _SHARE_WIDTH * share.value / total
        shapes += Markup('<g class="share-{}">{}<title>{}</title></g>').format(
            number, _rect(x, _SHARE_HEIGHT, width, _SHARE_HEIGHT), share.label
        )
        x += width
    return _scaled_svg("shares", _SHARE_WIDTH, _SHARE_HEIGHT, description, shapes)


def bar_chart(points: Sequence[DataPoint], description: str, unit: str = "") -> Markup:
    """Return a bar chart; `unit` is the plural of what is counted, such as "purchases".

    The column of each bar shows label and value on hover, and leads to the page of the point, if it has one.
    Single bars that are much higher than all others are cut off, and named below the chart.
    """
    top = _axis_maximum(points, _highest_full_bar(points))
    width = 100 / max(len(points), 1)
    columns = Markup("").join(
        _column(point, index * width, width, unit, _bar(point, index * width, width, top))
        for index, point in enumerate(points)
    )
    is_linked = any(point.path for point in points)
    cut = [point for point in points if point.value > top]
    return _chart(points, top, description, columns, unit, is_linked=is_linked) + _cut_note(cut, unit)


def line_chart(points: Sequence[DataPoint], description: str, unit: str = "") -> Markup:
    """Return a line chart with the area below the line filled; see `bar_chart`."""
    top, width = _axis_maximum(points, _highest(points)), 100 / max(len(points), 1)
    coordinates = " ".join(
        f"{(index + 0.5) * width:.2f},{_PLOT_HEIGHT - _height(point.value, top):.1f}"
        for index, point in enumerate(points)
    )
    # Only a drawing with a view box can have a line at percentages of the width.
    line = Markup(
        '<svg y="{}" width="100%" height="{}" viewBox="0 0 100 {}" preserveAspectRatio="none">'
        '<polygon class="area" points="{:.2f},{} {} {:.2f},{}"/><polyline class="line" points="{}"/></svg>'
    ).format(
        *(_TOP, _PLOT_HEIGHT, _PLOT_HEIGHT),
        *(width / 2, _PLOT_HEIGHT, coordinates, 100 - width / 2, _PLOT_HEIGHT, coordinates),
    )
    columns = Markup("").join(
        _column(point, index * width, width, unit, Markup("")) for index, point in enumerate(points)
    )
    is_linked = any(point.path for point in points)
    return _chart(points, top, description, line + columns, unit, is_linked=is_linked)


def _scaled_svg(name: str, width: int, height: int, description: str, shapes: Markup) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        name, width, height, description, shapes
    )


def _rect(x: float, bottom: float, width: float, height: float) -> Markup:
    return Markup('<rect x="{}" y="{}" width="{}" height="{}"/>').format(
        f"{x:.1f}", f"{bottom - height:.1f}", f"{width:.1f}", f"{height:.1f}"
    )


def _chart(
    points: Sequence[DataPoint], top: float, description: str, shapes: Markup, unit: str, *, is_linked: bool
) -> Markup:
    """Return the plot with its axes.

    Screen readers read the description of a chart without links. A chart with links is hidden from them and
    from the keyboard: the table beside it has the same links.
    """
    values = [(value, round(HEIGHT - _BOTTOM - _height(value, top))) for value in (0, top / 2, top)]
    grid = Markup("").join(
        Markup('<line class="grid" x1="0" x2="100%" y1="{}" y2="{}"/>').format(y, y) for _, y in values
    )
    numbers = Markup("").join(
        Markup('<text x="100%" y="{}" class="end">{}</text>').format(y + 4, _format(value))
        for value, y in values
    )
    access = Markup('aria-hidden="true"') if is_linked else Markup('role="img" aria-label="{}"')
    title = Markup('<div class="small text-secondary" aria-hidden="true">{}</div>').format(unit.capitalize())
    return (title if unit else Markup("")) + Markup(
        '<div class="chart" {}><svg class="chart-axis" height="{}">{}</svg>'
        '<svg class="chart-plot" height="{}">{}{}{}</svg></div>'
    ).format(access.format(description), HEIGHT, numbers, HEIGHT, grid, shapes, _labels(points))


def _labels(points: Sequence[DataPoint]) -> Markup:
    """Return the labels of the horizontal axis; a narrow chart hides every other one."""
    texts = [(index, point.tick) for index, point in enumerate(points) if point.tick]
    texts = texts or [(index, point.label) for index, point in enumerate(points)]
    step = -(-len(texts) // _MAX_LABELS) or 1
    shown = texts[::step]
    labels = Markup("")
    for number, (index, text) in enumerate(shown):
        position = 100 * (index + 0.5) / len(points)
        is_at_end = position > 90
        classes = " ".join(["end"] * is_at_end + ["minor"] * (number % 2))
        labels += Markup('<text x="{}%" y="{}" class="{}">{}</text>').format(
            f"{100 if is_at_end else position:.2f}",
            HEIGHT - 6,
            classes,
            _shorten(text, _MAX_LABEL_CHARACTERS // len(shown)),
        )
    return labels


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip(' (')}…"


def _column(point: DataPoint, x: float, width: float, unit: str, bar: Markup) -> Markup:
    """Return the column of a point, which reacts to the pointer in its full height."""
    area = Markup('<rect class="hit" x="{}%" y="{}" width="{}%" height="{}"/>').format(
        f"{x:.3f}", _TOP, f"{width:.3f}", _PLOT_HEIGHT
    )
    content = area + bar + Markup("<title>{}: {}</title>").format(point.label, _describe(point.value, unit))
    if not point.path:
        return Markup('<g class="chart-column">{}</g>').format(content)
    return Markup('<a class="chart-column" href="{}" tabindex="-1">{}</a>').format(
        root() + point.path, content
    )


def _bar(point: DataPoint, x: float, width: float, top: float) -> Markup:
    if not point.value:
        return Markup("")
    height = max(_height(min(point.value, top), top), _MIN_BAR_HEIGHT)
    bar_width = min(width * 0.85, _MAX_BAR_WIDTH)
    x += (width - bar_width) / 2
    bar = Markup('<rect class="bar" x="{}%" y="{}" width="{}%" height="{}"/>').format(
        f"{x:.3f}", f"{HEIGHT - _BOTTOM - height:.1f}", f"{bar_width:.3f}", f"{height:.1f}"
    )
    if point.value <= top:
        return bar
    return bar + Markup('<rect class="cut" x="{}%" y="{}" width="{}%" height="4"/>').format(
        f"{x:.3f}", _TOP + 8, f"{bar_width:.3f}"
    )


def _cut_note(cut: Sequence[DataPoint], unit: str) -> Markup:
    """Return a sentence about the bars that are cut off; nothing without any."""
    if not cut:
        return Markup("")
    named = sorted(cut, key=lambda point: -point.value)[:_MAX_CUT_BARS_NAMED]
    text = ", ".join(f"{point.label} ({_describe(point.value, unit)})" for point in named)
    more = f" and {len(cut) - len(named):,} more" if len(cut) > len(named) else ""
    return Markup('<p class="small text-secondary mb-0">Higher than the scale: {}{}.</p>').format(text, more)


def _describe(value: float, unit: str) -> str:
    return f"{_format(value)} {_PLURAL.sub('', unit) if value == 1 else unit}".rstrip()


def _format(value: float) -> str:
    """Return a whole number as it is, any other with two decimals."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"


def _highest(points: Sequence[DataPoint]) -> float:
    return max([point.value for point in points] + [1])


def _highest_full_bar(points: Sequence[DataPoint]) -> float:
    """Return the value up to which bars are drawn in full: the highest, if the others can be read then."""
    values = sorted(point.value for point in points if point.value)
    highest = _highest(points)
    if len(values) < _MIN_BARS_TO_CUT or highest < _MIN_VALUE_TO_CUT:
        return highest
    usual = values[int(len(values) * (1 - _CUT_SHARE)) - 1]
    return max(value for value in values if value <= _CUT_RATIO * usual)


def _axis_maximum(points: Sequence[DataPoint], highest: float) -> float:
    """Return the value rounded up to a round number, whose half is whole if all values of the chart are."""
    digits = float(10 ** (len(str(int(highest))) - 1))
    is_whole = all(point.value == round(point.value) for point in points)
    steps = (2, 4, 6, 8, 10) if is_whole and digits == 1 else (1, 2, 3, 4, 5, 6, 8, 10)
    return next(digits * step for step in steps if digits * step >= highest)


def _height(value: float, top: float) -> float:
    return _PLOT_HEIGHT * value / top
