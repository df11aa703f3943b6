"""`accession sandbox`: a stand-in vendor, for trying Accession out without an account."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from accession.cli.output import console
from accession.core.clock import utc_now

app = typer.Typer(no_args_is_help=True, help="A stand-in vendor, for trying Accession out.")

DEFAULT_PORT = 8643
FIRST_DAY = datetime(2014, 1, 1)  # noqa: DTZ001 - as typer reads it from the command line; taken as UTC

Since = Annotated[
    datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="The first day on which titles are bought.")
]
Until = Annotated[
    datetime | None,
    typer.Option(
        "--until", formats=["%Y-%m-%d"], help="The day before which the last is bought. [default: now]"
    ),
]


@app.command("serve")
def serve_(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 for any.")] = DEFAULT_PORT,
    titles: Annotated[int, typer.Option(min=0, help="How many titles the library has bought.")] = 2000,
    since: Since = FIRST_DAY,
    until: Until = None,
    seed: Annotated[int, typer.Option(help="Another seed makes other purchases and other events.")] = 0,
    activity: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="EVENTS",
            help="Sell, lend, return, hold and remove titles: so many events an hour, from an hour ago on.",
        ),
    ] = 0,
    latency_ms: Annotated[int, typer.Option(min=0, help="Milliseconds before each answer.")] = 0,
    faults: Annotated[
        str,
        typer.Option(
            metavar="NAME=SHARE,...",
            help="Faults and the share of answers they strike, as bad-gateway=0.1,blank=0.05; "
            "a wrong name lists the right ones.",
        ),
    ] = "",
) -> None:
    """Serve a vendor that has sold TITLES titles, signatures checked and quirks included."""
    # Only this command needs a web server.
    from accession.sandbox.activity import Activity
    from accession.sandbox.catalogue import build_catalogue
    from accession.sandbox.faults import Faults
    from accession.sandbox.server import Sandbox, SandboxAccount, serve

    end = utc_now() if until is None else until.replace(tzinfo=UTC)
    catalogue = build_catalogue(titles, since.replace(tzinfo=UTC), end, seed=seed)
    lending = Activity(catalogue, activity, utc_now() - timedelta(hours=1), seed=seed)
    sandbox = Sandbox(catalogue, faults=Faults.parse(faults, seed), latency_ms=latency_ms, activity=lending)

    def tell(base_url: str) -> None:
        account = SandboxAccount()
        console.print(
            f"The sandbox vendor answers at {base_url}\n"
            f"  library id {account.library_id}, account id {account.account_id}, "
            f"account key {account.account_key}\n"
            f"  statistics: {base_url}/sandbox/statistics",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    serve(port, sandbox, tell)
