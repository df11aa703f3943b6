"""Commands of `accession notifications`: channels, rules and the delivery log."""

import os
from typing import Annotated

import typer
from pydantic import SecretStr

from accession.auth.audit import AuditAction, record
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue, require_servers
from accession.cli.output import AsJson, console, print_listing
from accession.core.errors import UserError
from accession.core.sanitize import sanitize
from accession.db.models import DeliveryState
from accession.notifications.channels import (
    add_channel,
    channel_views,
    find_channel,
    remove_channel,
)
from accession.notifications.delivery import notification_views, send_test
from accession.notifications.kinds import EventKind, Severity
from accession.notifications.rules import (
    RuleSpec,
    add_rule,
    change_rule,
    find_rule,
    remove_rule,
    rule_views,
)

URL_VARIABLE = "ACCESSION_NOTIFICATION_URL"
_DEFAULTS = RuleSpec(name="", channel="")

app = typer.Typer(no_args_is_help=True)
rules_app = typer.Typer(no_args_is_help=True)
app.add_typer(rules_app, name="rules", help="Manage the rules: what a channel is notified of, and when.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the channel.")]
RuleName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the rule.")]


@app.command(epilog="Example: accession notifications add operators")
def add(
    name: Name,
    without_rule: Annotated[
        bool, typer.Option("--without-rule", help="Add no rule that notifies the channel of everything.")
    ] = False,
) -> None:
    """Add a channel, and a rule that notifies it of everything.

    The URL of the service in the form of Apprise, such as mailtos://user:password@mail.example, is read from
    the environment variable ACCESSION_NOTIFICATION_URL, otherwise from a prompt. It is stored encrypted, and
    not shown again.
    """
    # Fail before the prompt, not after it.
    require_servers()
    url = os.environ.get(URL_VARIABLE) or typer.prompt("URL of the service", hide_input=True)
    with open_catalogue() as session:
        channel = add_channel(session, name, SecretStr(url))
        if not without_rule:
            add_rule(session, RuleSpec(name=name, channel=name))
        record(session, command_actor(), AuditAction.CHANNEL_ADD, name, {"service": channel.service})
        service = channel.service
    console.print(
        f'Added "{sanitize(name)}" ({service}). Next: accession notifications test "{sanitize(name)}"',
        markup=False,
        soft_wrap=True,
    )


@app.command("list")
def list_channels(as_json: AsJson = False) -> None:
    """List the channels."""
    with open_catalogue() as session:
        print_listing(
            channel_views(session),
            [
                ("Name", lambda channel: channel.name),
                ("Service", lambda channel: channel.service),
                ("Rules", lambda channel: channel.rules),
                ("Last sent", lambda channel: channel.last_sent_at),
                ("Last error", lambda channel: channel.last_error),
            ],
            as_json=as_json,
            empty_message="No channels. Add one with: accession notifications add NAME",
        )


@app.command()
def remove(name: Name) -> None:
    """Remove a channel with its rules; messages that have not been sent are discarded."""
    with open_catalogue() as session:
        remove_channel(session, find_channel(session, name))
        record(session, command_actor(), AuditAction.CHANNEL_REMOVE, name)
    console.print(f'Removed the channel "{sanitize(name)}".', markup=False)


@app.command()
def test(name: Name) -> None:
    """Send a test message to a channel now."""
    with open_catalogue() as session:
        channel = find_channel(session, name)
        record(session, command_actor(), AuditAction.CHANNEL_TEST, name)
        channel_id, service = channel.id, channel.service
    if (error := send_test(channel_id)) is not None:
        raise UserError(error)
    console.print(f"Sent a test message to {service}.", markup=False)


@app.command("log")
def show_log(
    state: Annotated[DeliveryState | None, typer.Option(help="Show messages in this state only.")] = None,
    channel: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show messages to this channel only.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of messages.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the messages, newest first, and whether they were delivered. Times are in UTC."""
    with open_catalogue() as session:
        print_listing(
            notification_views(session, state=state, channel=channel, limit=limit),
            [
                ("Number", lambda message: str(message.id)),
                ("Created", lambda message: message.created_at),
                ("Channel", lambda message: message.channel),
                ("Message", lambda message: message.title),
                ("State", lambda message: message.state),
                ("Tries", lambda message: message.tries),
                ("Next try", lambda message: message.due_at),
                ("Error", lambda message: message.error),
            ],
            as_json=as_json,
            empty_message="No messages.",
        )


@rules_app.command(
    "add",
    epilog="Example: accession notifications rules add night --channel operators --min-severity critical",
)
def add_rule_(
    name: RuleName,
    channel: Annotated[str, typer.Option(metavar="NAME", help="Channel that is notified.")],
    events: Annotated[
        list[EventKind] | None, typer.Option("--event", help="Kind of event; repeatable. Default: all.")
    ] = None,
    collections: Annotated[
        list[str] | None,
        typer.Option("--collection", metavar="NAME", help="Only of this collection; repeatable."),
    ] = None,
    min_severity: Annotated[Severity, typer.Option(help="Lowest severity.")] = _DEFAULTS.min_severity,
    quiet_hours: Annotated[
        str, typer.Option(metavar="FROM-TO", help="Hold messages back at these hours, such as 22:00-07:00.")
    ] = "",
    time_zone: Annotated[
        str, typer.Option(help="Time zone of the quiet hours. [default: ACCESSION_TIME_ZONE]")
    ] = "",
    critical_ignores_quiet_hours: Annotated[
        bool,
        typer.Option(
            "--critical-ignores-quiet-hours/--critical-waits", help="Send critical messages at quiet hours."
        ),
    ] = _DEFAULTS.critical_ignores_quiet_hours,
    still_failing_hours: Annotated[
        int, typer.Option(help="Remind of a problem after so many hours, then daily.")
    ] = _DEFAULTS.still_failing_hours,
    no_success_hours: Annotated[
        int, typer.Option(help="Report a workflow without a success for so many hours.")
    ] = _DEFAULTS.no_success_hours,
    rejected_records: Annotated[
        int, typer.Option(help="Report a collection with more open rejected records.")
    ] = _DEFAULTS.rejected_records,
    disk_free_percent: Annotated[
        int, typer.Option(help="Report a disk with less free space, in percent.")
    ] = _DEFAULTS.disk_free_percent,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the rule with this name, with all its values.")
    ] = False,
) -> None:
    """Add a rule, which notifies a channel of events."""
    spec = RuleSpec(
        name=name,
        channel=channel,
        events=tuple(events or ()),
        collections=tuple(collections or ()),
        min_severity=min_severity,
        quiet_hours=quiet_hours,
        time_zone=time_zone,
        critical_ignores_quiet_hours=critical_ignores_quiet_hours,
        still_failing_hours=still_failing_hours,
        no_success_hours=no_success_hours,
        rejected_records=rejected_records,
        disk_free_percent=disk_free_percent,
    )
    with open_catalogue() as session:
        if replace:
            change_rule(session, find_rule(session, name).id, spec)
        else:
            add_rule(session, spec)
        action = AuditAction.RULE_EDIT if replace else AuditAction.RULE_ADD
        record(session, command_actor(), action, name, {"channel": channel})
    console.print(f'{"Replaced" if replace else "Added"} the rule "{sanitize(name)}".', markup=False)


@rules_app.command("list")
def list_rules(as_json: AsJson = False) -> None:
    """List the rules."""
    with open_catalogue() as session:
        print_listing(
            rule_views(session),
            [
                ("Name", lambda rule: rule.name),
                ("Channel", lambda rule: rule.channel),
                ("Events", lambda rule: ", ".join(rule.events) or "all"),
                ("Collections", lambda rule: ", ".join(rule.collections) or "all"),
                ("From severity", lambda rule: rule.min_severity.value),
                (
                    "Quiet hours",
                    lambda rule: f"{rule.quiet_hours} {rule.time_zone}" if rule.quiet_hours else "",
                ),
            ],
            as_json=as_json,
            empty_message="No rules. Add one with: accession notifications rules add NAME --channel NAME",
        )


@rules_app.command("remove")
def remove_rule_(name: RuleName) -> None:
    """Remove a rule; its messages that have not been sent are discarded."""
    with open_catalogue() as session:
        remove_rule(session, find_rule(session, name).id)
        record(session, command_actor(), AuditAction.RULE_REMOVE, name)
    console.print(f'Removed the rule "{sanitize(name)}".', markup=False)
