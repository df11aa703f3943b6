"""Command `sandbox serve`: run the simulated vendor."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from accession.cli.output import console
from accession.core.clock import utc_now

app = typer.Typer(no_args_is_help=True)

DEFAULT_PORT = 8643
FIRST_DAY = datetime(2014, 1, 1)  # noqa: DTZ001 - typer parses dates without a time zone; UTC is meant

Since = Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day of purchases.")]
Until = Annotated[
    datetime | None,
    typer.Option("--until", formats=["%Y-%m-%d"], help="Day after the last purchases. [default: now]"),
]


@app.command("serve", epilog="Example: accession sandbox serve --titles 500 --activity 1000")
def serve_(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 for a free one.")
    ] = DEFAULT_PORT,
    titles: Annotated[
        int, typer.Option(min=0, help="Number of titles that the library has purchased.")
    ] = 2000,
    since: Since = FIRST_DAY,
    until: Until = None,
    seed: Annotated[int, typer.Option(help="Seed of the random purchases and events.")] = 0,
    activity: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="EVENTS",
            help="Events per hour (purchases, loans, returns, holds, removals), starting one hour ago.",
        ),
    ] = 0,
    latency_ms: Annotated[int, typer.Option(min=0, help="Delay of each response in milliseconds.")] = 0,
    faults: Annotated[
        str,
        typer.Option(
            metavar="NAME=SHARE,...",
            help="Faults and the share of responses (late: of purchases) that they affect, such as "
            "bad-gateway=0.1,blank=0.05; an unknown name lists the valid ones.",
        ),
    ] = "",
) -> None:
    """Serve a simulated vendor that has sold TITLES titles.

    It checks signatures and imitates the quirks of the real API.
    """
    # Imported here, because only this command needs a web server.
    from accession.sandbox.activity import Activity
    from accession.sandbox.catalogue import build_catalogue
    from accession.sandbox.faults import Faults
    from accession.sandbox.server import serve
    from accession.sandbox.signatures import SandboxAccount
    from accession.sandbox.vendor import Sandbox

    end = utc_now() if until is None else until.replace(tzinfo=UTC)
    catalogue = build_catalogue(titles, since.replace(tzinfo=UTC), end, seed=seed)
    simulated_activity = Activity(catalogue, activity, utc_now() - timedelta(hours=1), seed=seed)
    sandbox = Sandbox(
        catalogue, faults=Faults.parse(faults, seed), latency_ms=latency_ms, activity=simulated_activity
    )

    def print_address(base_url: str) -> None:
        account = SandboxAccount()
        console.print(
            f"The simulated vendor is at {base_url}\n"
            f"  library id {account.library_id}, account id {account.account_id}, "
            f"account key {account.account_key}\n"
            f"  statistics: {base_url}/sandbox/statistics",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    serve(port, sandbox, print_address)
