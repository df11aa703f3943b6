"""Commands of `accession db`: upgrade and check the schema of the database."""

import typer

from accession.cli.connect import require_servers
from accession.cli.output import console
from accession.core.errors import UserError
from accession.db import schema
from accession.db.engine import engine

app = typer.Typer(no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Migrate the database to the schema of this version."""
    require_servers()
    before = schema.upgrade(engine())
    if before.is_current:
        console.print(f"The database already has schema {before.head}.")
    else:
        console.print(f"Migrated the database from schema {before.revision or 'none'} to {before.head}.")


@app.command()
def check() -> None:
    """Check whether the database has the schema of this version; exit with 1 if not."""
    require_servers()
    state = schema.schema_state(engine())
    schema.require_known_schema(state)
    if not state.is_current:
        raise UserError(
            f"The database has schema {state.revision or 'none'}, this version needs {state.head}: "
            "run `accession db upgrade`."
        )
    console.print(f"The database has schema {state.head}, the current one.")
