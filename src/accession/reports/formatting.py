"""Values of reports as text for people."""

from accession.core.labels import value_label
from accession.reports.model import Column, ColumnKind, Row


def format_cell(column: Column, row: Row) -> str:
    """Return a value as text: "1,234", "2.50", "12.5 %", "2024-05-01" or the label of a code; None is ""."""
    value = row.values[column.name]
    if value is None:
        return ""
    match column.kind:
        case ColumnKind.NUMBER:
            return f"{value:,}"
        case ColumnKind.RATIO:
            return f"{value:,.2f}"
        case ColumnKind.SHARE:
            return f"{100 * value:.1f} %"
        case ColumnKind.DAY:
            return str(value)
        case ColumnKind.TEXT:
            return row.labels.get(column.name) or value_label(column.name, value)
