"""Command `collections limit`: how many requests a collection's account sends to the vendor."""

from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from accession.accounts.collections import find_collection
from accession.accounts.limits import (
    VendorLimits,
    VendorLimitsView,
    set_vendor_limits,
    stored_limits,
    vendor_limits_view,
)
from accession.auth.audit import AuditAction, record
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue
from accession.cli.output import AsJson, print_listing


def limit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the collection.")],
    concurrency: Annotated[int | None, typer.Option(help="Maximum number of simultaneous requests.")] = None,
    requests_per_second: Annotated[float | None, typer.Option(help="Maximum rate of requests.")] = None,
    inherit: Annotated[
        bool, typer.Option("--default", help="Inherit the limits from the settings again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show or change the limits of the requests that a collection sends to the vendor.

    Collections that share an account at the vendor share its limits: they are changed for all of them. What
    is not given stays as it is. Without options, the limits are shown.
    """
    changes: dict[str, Any] = {
        "max_concurrency": concurrency,
        "max_requests_per_second": requests_per_second,
    }
    changes = {field: value for field, value in changes.items() if value is not None}
    if changes and inherit:
        raise typer.BadParameter("give either --default or new limits")
    with open_catalogue() as session:
        collection = find_collection(session, name)
        if changes or inherit:
            limits = VendorLimits() if inherit else replace(stored_limits(collection), **changes)
            view = set_vendor_limits(session, collection, limits)
            record(session, command_actor(), AuditAction.COLLECTION_SET_LIMITS, name, asdict(limits))
        else:
            view = vendor_limits_view(session, collection)
    _print_limits(view, as_json=as_json)


def _print_limits(view: VendorLimitsView, *, as_json: bool) -> None:
    rate = view.max_requests_per_second
    print_listing(
        [view],
        [
            ("Collections", lambda v: v.collections),
            ("Concurrent requests", lambda v: v.max_concurrency),
            ("Requests per second", lambda _: "unlimited" if rate is None else f"{rate:g}"),
            ("Inherited", lambda v: ", ".join(v.inherited).replace("_", " ")),
        ],
        as_json=as_json,
        empty_message="",
    )
