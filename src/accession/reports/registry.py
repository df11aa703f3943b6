"""All reports by name."""

from collections.abc import Mapping

from accession.core.errors import NotFound
from accession.reports.groups import GROWTH, TURNOVER
from accession.reports.holds_ratio import HOLDS_RATIO
from accession.reports.model import Report
from accession.reports.overlap import OVERLAP
from accession.reports.rejected import REJECTED
from accession.reports.stock import EXHAUSTED, INCOMPLETE
from accession.reports.use import BORROWED, UNUSED

REPORTS: Mapping[str, Report] = {
    report.name: report
    for report in (
        HOLDS_RATIO,
        BORROWED,
        UNUSED,
        TURNOVER,
        GROWTH,
        EXHAUSTED,
        INCOMPLETE,
        REJECTED,
        OVERLAP,
    )
}
"""The reports in the order in which they are listed."""

PARAMETERS: Mapping[str, str] = {
    parameter.name: " ".join(
        f"{report.name}: {each.help} Default: {each.default}."
        for report in REPORTS.values()
        for each in report.parameters
        if each.name == parameter.name
    )
    for report in REPORTS.values()
    for parameter in report.parameters
}
"""The parameters of all reports, by name: what each means in the reports that have it."""


def find_report(name: str) -> Report:
    """Return the report with this name.

    Raises:
        NotFound: there is none.
    """
    if name not in REPORTS:
        raise NotFound(f'There is no report "{name}": choose one of {", ".join(REPORTS)}.')
    return REPORTS[name]
