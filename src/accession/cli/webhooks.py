"""Commands of `accession webhooks`: programs that are sent events, and the deliveries."""

from typing import Annotated

import typer
from pydantic import SecretStr

from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue
from accession.cli.output import AsJson, console, count_noun, print_listing
from accession.core.errors import UserError
from accession.core.sanitize import sanitize
from accession.db.models import WebhookDeliveryState, WebhookEvent
from accession.exports.selection import parse_since
from accession.webhooks.delivery import send_test
from accession.webhooks.log import (
    DeliveryFilter,
    delivery_views,
    replay_delivery,
    replay_period,
    skip_delivery,
)
from accession.webhooks.registry import (
    WebhookSpec,
    add_webhook,
    change_webhook,
    find_webhook,
    pause_webhook,
    remove_webhook,
    resume_webhook,
    rotate_secret,
    webhook_view,
    webhook_views,
)

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the webhook.")]
Events = Annotated[
    list[WebhookEvent] | None, typer.Option("--event", help="Kind of event; repeatable. Default: all.")
]
Collections = Annotated[
    list[str] | None,
    typer.Option("--collection", metavar="NAME", help="Only events of this collection; repeatable."),
]


@app.command(epilog="Example: accession webhooks add index https://index.library.example/accession")
def add(
    name: Name,
    url: Annotated[str, typer.Argument(metavar="URL", help="URL to which events are sent.")],
    events: Events = None,
    collections: Collections = None,
) -> None:
    """Add a webhook, and print its secret once: it is stored encrypted.

    The receiver verifies each request with the secret, as the Standard Webhooks specification defines it.
    """
    spec = WebhookSpec(name, url, tuple(events or WebhookEvent), tuple(collections or ()))
    with open_catalogue() as session:
        _, secret = add_webhook(session, command_actor(), spec)
    _print_secret(f'Added the webhook "{sanitize(name)}".', secret)


def _print_secret(message: str, secret: SecretStr) -> None:
    typer.echo(f"{message} Its secret is not shown again:", err=True)
    typer.echo(secret.get_secret_value())


@app.command("list")
def list_webhooks(as_json: AsJson = False) -> None:
    """List the webhooks."""
    with open_catalogue() as session:
        print_listing(
            webhook_views(session),
            [
                ("Name", lambda webhook: webhook.name),
                ("URL", lambda webhook: webhook.url),
                ("Events", lambda webhook: "; ".join(webhook.events)),
                ("Collections", lambda webhook: "; ".join(webhook.collections) or "all"),
                ("State", lambda webhook: webhook.state),
                ("Pending", lambda webhook: webhook.pending),
                ("Last delivered", lambda webhook: webhook.last_delivered_at),
                ("Problem", lambda webhook: webhook.pause_reason or webhook.last_error),
            ],
            as_json=as_json,
            empty_message="No webhooks. Add one with: accession webhooks add NAME URL",
        )


@app.command(epilog="Example: accession webhooks update index --event title.removed")
def update(
    name: Name,
    url: Annotated[str | None, typer.Option(metavar="URL", help="URL to which events are sent.")] = None,
    rename: Annotated[str | None, typer.Option(metavar="NAME", help="New name.")] = None,
    events: Annotated[
        list[WebhookEvent] | None, typer.Option("--event", help="Kind of event; repeatable.")
    ] = None,
    collections: Collections = None,
    all_collections: Annotated[
        bool, typer.Option("--all-collections", help="Send the events of all collections.")
    ] = False,
) -> None:
    """Change a webhook; what is not given stays. Pending events are sent to a new URL, too."""
    if collections and all_collections:
        raise typer.BadParameter("give either --collection or --all-collections")
    with open_catalogue() as session:
        webhook = find_webhook(session, name)
        stored = webhook_view(session, webhook.id)
        spec = WebhookSpec(
            name=rename or name,
            url=url or stored.url,
            events=tuple(events or stored.events),
            collections=() if all_collections else tuple(collections or stored.collections),
        )
        change_webhook(session, command_actor(), webhook, spec)
    console.print(f'Changed the webhook "{sanitize(spec.name)}".', markup=False)


@app.command()
def remove(name: Name) -> None:
    """Remove a webhook with its deliveries; pending events are discarded."""
    with open_catalogue() as session:
        remove_webhook(session, command_actor(), find_webhook(session, name))
    console.print(f'Removed the webhook "{sanitize(name)}".', markup=False)


@app.command()
def pause(
    name: Name,
    reason: Annotated[str, typer.Option(help="Reason, shown to others.")] = "",
) -> None:
    """Send no more events to a webhook; they wait until it is resumed."""
    with open_catalogue() as session:
        pause_webhook(session, command_actor(), find_webhook(session, name), reason)
    console.print(f'Paused the webhook "{sanitize(name)}".', markup=False)


@app.command()
def resume(name: Name) -> None:
    """Send events to a webhook again, at once also those that have failed."""
    with open_catalogue() as session:
        resume_webhook(session, command_actor(), find_webhook(session, name))
    console.print(f'Resumed the webhook "{sanitize(name)}".', markup=False)


@app.command("rotate-secret")
def rotate_secret_(name: Name) -> None:
    """Replace the secret of a webhook, and print the new one once.

    For a day, requests are signed with both, so that the receiver can be changed meanwhile.
    """
    with open_catalogue() as session:
        secret = rotate_secret(session, command_actor(), find_webhook(session, name))
    _print_secret(f'Replaced the secret of the webhook "{sanitize(name)}".', secret)


@app.command()
def test(name: Name) -> None:
    """Send a test event to a webhook now."""
    with open_catalogue() as session:
        webhook_id = find_webhook(session, name).id
    if (error := send_test(command_actor(), webhook_id)) is not None:
        raise UserError(f'The test event was not accepted by the webhook "{name}": {error}')
    console.print(f'Sent a test event to the webhook "{sanitize(name)}".', markup=False)


@app.command()
def deliveries(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show deliveries to this webhook only.")
    ] = None,
    state: Annotated[
        WebhookDeliveryState | None, typer.Option(help="Show deliveries in this state only.")
    ] = None,
    event: Annotated[WebhookEvent | None, typer.Option(help="Show this kind of event only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of deliveries.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the deliveries, newest first; with --json also what was sent. Times are in UTC."""
    with open_catalogue() as session:
        webhook_id = None if name is None else find_webhook(session, name).id
        print_listing(
            delivery_views(session, DeliveryFilter(webhook_id, state, event), limit=limit),
            [
                ("Number", lambda delivery: str(delivery.id)),
                ("Created", lambda delivery: delivery.created_at),
                ("Webhook", lambda delivery: delivery.webhook),
                ("Event", lambda delivery: delivery.event),
                ("Collection", lambda delivery: delivery.collection),
                ("Title", lambda delivery: delivery.title),
                ("State", lambda delivery: delivery.state),
                ("Tries", lambda delivery: delivery.tries),
                ("Status", lambda delivery: delivery.status),
                ("ms", lambda delivery: delivery.duration_ms),
                ("Next try", lambda delivery: delivery.next_try_at),
                ("Error", lambda delivery: delivery.error),
            ],
            as_json=as_json,
            empty_message="No deliveries.",
        )


@app.command(epilog="Example: accession webhooks replay index --since 2026-03-01 --until 2026-03-02")
def replay(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Webhook whose events are sent again.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="From then on: a date, a time in UTC, or an age such as 7d."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Before then.")] = None,
    delivery: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Instead: send the event of this delivery again.")
    ] = None,
) -> None:
    """Send events again that were delivered or skipped, of a period or of one delivery.

    Their ids stay the same, and so does what is sent.
    """
    if (delivery is None) == (name is None or since is None) or (delivery is not None and name):
        raise typer.BadParameter("give either a webhook with --since, or --delivery")
    with open_catalogue() as session:
        if delivery is not None:
            replay_delivery(session, command_actor(), delivery)
            number = 1
        else:
            webhook = find_webhook(session, name or "")
            end = None if until is None else parse_since(until)
            number = replay_period(session, command_actor(), webhook, parse_since(since or ""), end)
    console.print(f"{count_noun(number, 'event')} will be sent again.")


@app.command()
def skip(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Number of the delivery.")],
) -> None:
    """Do not deliver a pending event, so that those behind it are sent."""
    with open_catalogue() as session:
        skip_delivery(session, command_actor(), number)
    console.print(f"Skipped delivery {number}.")
