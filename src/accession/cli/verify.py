"""Command `verify`: compare past months with the vendor, and repair what differs."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated

import typer

from accession.accounts.collections import find_collection
from accession.auth.audit import AuditAction, record
from accession.catalog.verification import FindingView, finding_views
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue, require_broker
from accession.cli.output import AsJson, console, count_noun, error_console, print_listing
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.imports.verification_summary import verification_summary


def _parse_month(text: str) -> date:
    """Return the first day of a month given as `2019-03`, or by one of its days."""
    for pattern in ("%Y-%m", "%Y-%m-%d"):
        try:
            return datetime.strptime(text, pattern).date().replace(day=1)  # noqa: DTZ007
        except ValueError:
            continue
    raise typer.BadParameter(f"{text!r} is not a month such as 2019-03")


def verify(
    collection: Annotated[str, typer.Option("--collection", metavar="NAME", help="Collection to verify.")],
    first_month: Annotated[
        date | None,
        typer.Option("--from", metavar="YYYY-MM", parser=_parse_month, help="First month. Default: 2014-01."),
    ] = None,
    last_month: Annotated[
        date | None,
        typer.Option(
            "--to", metavar="YYYY-MM", parser=_parse_month, help="Last month. Default: the present one."
        ),
    ] = None,
    with_days: Annotated[
        bool,
        typer.Option("--days", help="Compare each day with purchases too: at least one request per day."),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Import missing purchases, and remove moved ones from their old date."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the stored purchases with those that the vendor lists, month by month.

    It finds purchases that are missing, moved to another date, or extra: stored, but not listed. The vendor's
    lists do not name the day of a purchase: one that was moved within its month is found with --days only.

    First it prints the number of requests. The verification runs on a worker, and continues there if this
    command is interrupted. Then the differences are listed, those repaired just now included. Extra purchases
    stay: the vendor may have withdrawn them. The exit code is 1 if a difference is left.
    """
    require_broker()
    with open_catalogue() as session:
        selected = find_collection(session, collection)
        collection_id, name = selected.id, selected.name
        summary = verification_summary(session, selected, first_month=first_month, last_month=last_month)
    if not summary.requests:
        raise UserError(
            f'No purchases of "{name}" are stored in these months, so that there is nothing to compare: '
            f'import them first with `accession import purchases --collection "{name}"`.'
        )
    requests = summary.requests_with_days if with_days else summary.requests
    error_console.print(
        f"Verifying needs about {count_noun(requests, 'request')}, and more where something differs."
    )
    started_at = utc_now()
    options = {"from": first_month, "to": last_month, "days": with_days, "repair": repair}
    with open_catalogue() as session:
        record(session, command_actor(), AuditAction.RUN_VERIFY, name, options)
    _run(collection_id, name, first_month, last_month, with_days=with_days, repair=repair)
    with open_catalogue() as session:
        findings = finding_views(
            session,
            collection=name,
            first_month=first_month,
            last_month=last_month,
            resolved_since=started_at,
        )
    _print_findings(findings, as_json=as_json)
    if any(finding.resolved_at is None for finding in findings):
        raise typer.Exit(1)


def _run(
    collection_id: int,
    name: str,
    first_month: date | None,
    last_month: date | None,
    *,
    with_days: bool,
    repair: bool,
) -> None:
    # The Celery app reads the broker's URL when it is imported.
    from accession.cli.watch import watch
    from accession.tasks.verification import start_verification

    task_ids = start_verification(
        [collection_id], first_month=first_month, last_month=last_month, with_days=with_days, repairs=repair
    )
    try:
        succeeded = watch(Workflow.VERIFICATION, {collection_id: name}, task_ids)
    except KeyboardInterrupt:
        error_console.print("\nThe verification continues in the background. See: accession status")
        raise typer.Exit(130) from None
    if not succeeded:
        raise typer.Exit(1)


def _print_findings(findings: Sequence[FindingView], *, as_json: bool) -> None:
    print_listing(
        findings,
        [
            ("Difference", lambda f: f.kind),
            ("Title id", lambda f: f.identifier),
            ("Title", lambda f: f.title),
            ("Purchase date", lambda f: f.purchased_on),
            ("Now listed under", lambda f: f.moved_to),
            ("Purchases", lambda f: f.purchases),
            ("Found", lambda f: f.found_at),
            ("Resolved", lambda f: f.resolved_at),
        ],
        as_json=as_json,
        empty_message="The stored purchases are those that the vendor lists.",
    )
    is_left = any(finding.kind != "extra" and finding.resolved_at is None for finding in findings)
    if is_left and not as_json:
        console.print("Repair them with --repair; the daily import repairs them as well.")
