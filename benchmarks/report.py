"""Figures as Markdown tables, in their places in a page."""

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

_PLACE = re.compile(r"(<!-- figures: ([\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, figures: Mapping[str, Any]) -> str:
    """The page with a table between each `<!-- figures: PART -->` and the next `<!-- end -->`, of a part that
    was measured; `PART.NAME` is what a part has under that name."""

    def table(place: re.Match[str]) -> str:
        part, *names = place[2].split(".")
        if part not in figures:
            return place[0]
        return f"{place[1]}{markdown(reduce(lambda told, name: told[name], names, figures[part]))}{place[3]}"

    return _PLACE.sub(table, page)


def markdown(rows: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> str:
    """A table with a column for each field that is no list; of a mapping, one with two columns."""
    if isinstance(rows, Mapping):
        rows = [{"what": name, "": value} for name, value in rows.items()]
    names = [name for name, value in rows[0].items() if not isinstance(value, list)]
    lines = [
        [name.replace("_", " ") for name in names],
        ["---" if isinstance(rows[0][name], str) else "---:" for name in names],
        *([_shown(row[name]) for name in names] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.3g}" if abs(value) < 10 else f"{value:,.1f}"
    return str(value)
