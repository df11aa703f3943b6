"""Bringing a database to the schema of this program, and telling whether it is there."""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from accession.core.errors import UserError
from accession.db.engine import OLDEST_POSTGRESQL

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True)
class SchemaState:
    """Revisions of the database and of the program; `found` is None for an empty database."""

    found: str | None
    wanted: str
    known: bool
    """Whether this program knows the database's revision; if not, the database is newer."""

    @property
    def current(self) -> bool:
        """Whether the database is as this program wants it."""
        return self.found == self.wanted


def _config(engine: Engine) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["engine"] = engine
    return config


def schema_state(engine: Engine) -> SchemaState:
    """Compare the database's revision with the newest that this program knows."""
    scripts = ScriptDirectory.from_config(_config(engine))
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    wanted = scripts.get_current_head()
    if wanted is None:
        raise AssertionError("the program carries no migrations")
    known = found is None or any(script.revision == found for script in scripts.walk_revisions())
    return SchemaState(found, wanted, known)


def upgrade(engine: Engine) -> SchemaState:
    """Migrate to this program's schema; two programs that do so at once take turns.

    Returns the state as it was before. Raises `UserError` for a PostgreSQL that is too old and for a
    database newer than the program; nothing is changed then.
    """
    with engine.connect() as connection:
        version = connection.connection.dbapi_connection.info.server_version // 10000  # type: ignore[union-attr]
    if version < OLDEST_POSTGRESQL:
        raise UserError(
            f"The database server is PostgreSQL {version}: Accession needs {OLDEST_POSTGRESQL} or newer."
        )
    before = schema_state(engine)
    refuse_newer(before)
    if not before.current:
        command.upgrade(_config(engine), "head")
    return before


def downgrade(engine: Engine, revision: str) -> None:
    """Migrate back to `revision` ("base" for an empty database); what only newer tables hold is lost."""
    command.downgrade(_config(engine), revision)


def refuse_newer(state: SchemaState) -> None:
    """Raise `UserError` when the database is newer than the program."""
    if not state.known:
        raise UserError(
            f"The database has schema {state.found}, which this version of Accession does not know: "
            "install the newer Accession that made it."
        )


def require_current(engine: Engine) -> str:
    """The schema that the database has, which is the program's; raises `UserError` when it is another."""
    state = schema_state(engine)
    refuse_newer(state)
    if not state.current:
        raise UserError(f"{state.found or 'none'} instead of {state.wanted}: run `accession db upgrade`")
    return state.wanted
