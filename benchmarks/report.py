"""Output of figures: tables on the terminal, a line of JSON, and tables in Markdown pages."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from typing import Any

_TABLE = re.compile(r"(<!-- figures: ([\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def print_table(rows: Sequence[Any]) -> None:
    """Print dataclasses as a table with a column for each field, except fields that are tuples or lists."""
    lines = [
        {name: value for name, value in asdict(row).items() if not isinstance(value, tuple | list)}
        for row in rows
    ]
    headings = {name: name.replace("_", " ") for name in lines[0]}
    cells = [{name: _format_exactly(value) for name, value in line.items()} for line in lines]
    widths = {
        name: max(len(heading), *(len(cell[name]) for cell in cells)) for name, heading in headings.items()
    }
    for cell in (headings, *cells):
        print("  ".join(f"{text:>{widths[name]}}" for name, text in cell.items()))


def print_json(rows: Sequence[Any]) -> None:
    """Print dataclasses as one line of JSON, which must be the last line of a part's output."""
    print(json.dumps([asdict(row) for row in rows]))


def fill_tables(page: str, figures: Mapping[str, Any]) -> str:
    """Return a Markdown page whose tables show `figures`.

    A table is between `<!-- figures: PART -->` and `<!-- end -->`; `PART.NAME` selects one list of a part
    that has several. Tables of parts that were not measured stay as they are.
    """

    def replacement(match: re.Match[str]) -> str:
        part, *names = match[2].split(".")
        if part not in figures:
            return match[0]
        rows = reduce(lambda value, name: value[name], names, figures[part])
        return f"{match[1]}{markdown_table(rows)}{match[3]}"

    return _TABLE.sub(replacement, page)


def markdown_table(rows: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> str:
    """Return a table with a column for each field that is not a list; a mapping becomes two columns."""
    if isinstance(rows, Mapping):
        rows = [{"item": name, "value": value} for name, value in rows.items()]
    names = [name for name, value in rows[0].items() if not isinstance(value, list)]
    lines = [
        [name.replace("_", " ") for name in names],
        ["---" if isinstance(rows[0][name], str) else "---:" for name in names],
        *([_format_rounded(row[name]) for name in names] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _format_exactly(value: object) -> str:
    match value:
        case None:
            return "-"
        case int() | float():
            return f"{value:,}"
    return str(value)


def _format_rounded(value: object) -> str:
    match value:
        case float():
            return f"{value:,.3g}" if abs(value) < 10 else f"{value:,.1f}"
    return _format_exactly(value)
