"""Commands of `accession digests`: digests for librarians, by mail and as a feed."""

from typing import Annotated

import typer

from accession.accounts.collections import find_collection
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue
from accession.cli.output import AsJson, console, print_json, print_json_list, print_listing, print_table
from accession.core.errors import UserError
from accession.core.sanitize import sanitize, sanitize_lines
from accession.digests.delivery import send_now
from accession.digests.issues import MailView, issue_views, preview_content
from accession.digests.options import (
    MAX_TITLES,
    DigestOptions,
    Frequency,
    Weekday,
    find_options,
    get_options,
    remove_digest,
    set_digest,
)
from accession.digests.render import render_issue
from accession.digests.views import DigestView, digest_views, get_digest_view

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the collection.")]


@app.command("list")
def list_digests(as_json: AsJson = False) -> None:
    """List the digests of all collections. Times are in UTC."""
    with open_catalogue() as session:
        print_listing(
            digest_views(session),
            [
                ("Collection", lambda digest: digest.collection),
                ("Schedule", lambda digest: digest.schedule),
                ("Recipients", lambda digest: len(digest.options.recipients)),
                ("Next issue", lambda digest: digest.next_issue),
                ("Latest issue", lambda digest: digest.latest.created_at if digest.latest else None),
                ("Problem", lambda digest: digest.problem),
            ],
            as_json=as_json,
            empty_message="No digests. Set one with: accession digests set NAME --recipient ADDRESS",
        )


@app.command(
    "set",
    epilog='Example: accession digests set "Alder Library" --recipient ann@library.example --time 07:30',
)
def set_(
    name: Name,
    frequency: Annotated[Frequency | None, typer.Option(help="Daily or weekly. [default: weekly]")] = None,
    weekday: Annotated[Weekday | None, typer.Option(help="Day of a weekly digest. [default: monday]")] = None,
    time: Annotated[
        str | None, typer.Option(metavar="HH:MM", help="Local time of an issue. [default: 07:00]")
    ] = None,
    time_zone: Annotated[
        str | None,
        typer.Option(help="Time zone, such as Europe/Berlin. [default: ACCESSION_TIME_ZONE]"),
    ] = None,
    recipients: Annotated[
        list[str] | None,
        typer.Option("--recipient", metavar="ADDRESS", help="Email address; repeatable, replaces all."),
    ] = None,
    without_recipients: Annotated[
        bool, typer.Option("--without-recipients", help="Mail nobody: the digest is only a feed.")
    ] = False,
    send_empty: Annotated[
        bool | None,
        typer.Option(
            "--send-empty/--skip-empty",
            help="Make an issue also if no title was purchased, removed or expired. [default: --skip-empty]",
        ),
    ] = None,
    max_titles: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_TITLES, help="Maximum number of titles per section. [default: 20]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set the digest of a collection. Options that are not given stay as they are."""
    if recipients and without_recipients:
        raise typer.BadParameter("give either --recipient or --without-recipients")
    addresses = () if without_recipients else None if recipients is None else tuple(recipients)
    values = {
        "frequency": frequency,
        "weekday": weekday,
        "time": time,
        "time_zone": time_zone,
        "recipients": addresses,
        "send_empty": send_empty,
        "max_titles": max_titles,
    }
    changes = {option: value for option, value in values.items() if value is not None}
    with open_catalogue() as session:
        collection = find_collection(session, name)
        options = find_options(session, collection) or DigestOptions()
        set_digest(session, command_actor(), collection, DigestOptions(**(vars(options) | changes)))
        view = get_digest_view(session, collection)
    if as_json:
        print_json(view)
    else:
        _print_digest(view)


def _print_digest(view: DigestView) -> None:
    recipients = ", ".join(view.options.recipients) or "none, only the feed"
    lines = [
        f'Digest of "{sanitize(view.collection)}": {view.schedule}.',
        f"Recipients: {recipients}",
        f"Next issue: {view.next_issue:%a %Y-%m-%d %H:%M} UTC",
        *([view.problem] if view.problem else []),
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


@app.command()
def remove(name: Name) -> None:
    """Remove the digest of a collection with its issues; mails that have not been sent are discarded."""
    with open_catalogue() as session:
        remove_digest(session, command_actor(), find_collection(session, name))
    console.print(f'Removed the digest of "{sanitize(name)}".', markup=False)


@app.command()
def preview(
    name: Name,
    html: Annotated[bool, typer.Option("--html", help="Print the HTML of the mail, not its text.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what an issue would contain that is made now: the last day or week, up to yesterday (UTC)."""
    with open_catalogue() as session:
        collection = find_collection(session, name)
        content = preview_content(session, collection, get_options(session, collection))
    rendered = render_issue(content)
    if as_json:
        print_json(content)
    elif html:
        typer.echo(rendered.html)
    else:
        typer.echo(f"Subject: {rendered.subject}\n\n{sanitize_lines(rendered.text)}")


@app.command()
def send(
    name: Name,
    recipients: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="ADDRESS", help="Send it only to this address; repeatable."),
    ] = None,
) -> None:
    """Mail an issue of the last day or week now. The schedule stays as it is.

    A mail that cannot be sent now is tried again later.
    """
    with open_catalogue() as session:
        collection_id = find_collection(session, name).id
    issue = send_now(command_actor(), collection_id, tuple(recipients or ()))
    for mail in issue.mails:
        console.print(f"{mail.recipient}: {_result(mail)}", markup=False, highlight=False, soft_wrap=True)
    if any(mail.error for mail in issue.mails):
        raise UserError("Not all mails were sent: see the reasons above.")


def _result(mail: MailView) -> str:
    if mail.error is None:
        return "sent" if mail.sent_at else "waits for the next minute"
    retry = "" if mail.due_at is None else f" Next try: {mail.due_at:%H:%M} UTC."
    return f"{mail.state}. {sanitize(mail.error)}{retry}"


@app.command("log")
def show_log(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of issues.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the issues of a collection's digest, newest first, and the state of their mails."""
    with open_catalogue() as session:
        issues = issue_views(session, find_collection(session, name), limit=limit)
    if as_json:
        print_json_list(issues)
        return
    rows = [(issue, mail) for issue in issues for mail in issue.mails or (None,)]
    print_table(
        rows,
        [
            ("Issue", lambda row: str(row[0].id)),
            ("Created", lambda row: row[0].created_at),
            ("Days", lambda row: f"{row[0].first_day} – {row[0].last_day}"),
            ("Titles", lambda row: row[0].purchased + row[0].removed + row[0].expired),
            ("Recipient", lambda row: row[1] and row[1].recipient),
            ("State", lambda row: row[1] and row[1].state),
            ("Sent", lambda row: row[1] and row[1].sent_at),
            ("Next try", lambda row: row[1] and row[1].due_at),
            ("Error", lambda row: row[1] and row[1].error),
        ],
        empty_message="No issues yet.",
    )
