"""Values of reports as text for people."""

from typing import Any

from accession.reports.model import Column, ColumnKind


def format_value(column: Column, value: Any) -> str:
    """Return a value as text: "1,234", "2.50", "12.5 %" or "2024-05-01"; None is an empty text."""
    if value is None:
        return ""
    match column.kind:
        case ColumnKind.NUMBER:
            return f"{value:,}"
        case ColumnKind.RATIO:
            return f"{value:,.2f}"
        case ColumnKind.SHARE:
            return f"{100 * value:.1f} %"
        case _:
            return str(value)
