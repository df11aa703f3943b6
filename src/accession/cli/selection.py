"""Options that select collections and workflows for an action on several of them."""

from collections.abc import Sequence
from typing import Annotated

import typer

from accession.accounts.collections import find_collections, list_collections
from accession.cli.connect import open_catalogue, require_broker
from accession.core.workflow import Workflow

SomeCollections = Annotated[
    list[str] | None,
    typer.Option("--collection", metavar="NAME", help="Name of a collection. May be repeated."),
]
Failing = Annotated[
    bool, typer.Option("--failing", help="For every collection with a failing or retrying workflow.")
]
AllCollections = Annotated[bool, typer.Option("--all", help="For every collection.")]
SomeWorkflows = Annotated[
    list[Workflow] | None,
    typer.Option("--workflow", help="Only for this workflow. May be repeated. Default: all."),
]


def select_collections(
    names: Sequence[str] | None, *, selects_all: bool = False, failing: bool = False, choices: str
) -> dict[int, str]:
    """Return id and name of the collections that the options select: `choices` names these options.

    Raises:
        typer.BadParameter: not exactly one of the options is given.
        UserError: a collection is unknown, or the broker is unavailable.
    """
    if sum([bool(names), selects_all, failing]) != 1:
        raise typer.BadParameter(f"give either {choices}")
    require_broker()
    # The Celery app reads the broker's URL when it is imported.
    from accession.tasks.control import find_failing_collections

    with open_catalogue() as session:
        selected = find_collections(session, names) if names else list(list_collections(session))
        if failing:
            ids = find_failing_collections(session)
            selected = [collection for collection in selected if collection.id in ids]
        return {each.id: each.name for each in selected}
