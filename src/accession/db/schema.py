"""Schema of the database: upgrade it, and check which revision it has.

Nearly every command checks the revision. That needs no Alembic, whose import takes a tenth of its time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, text

from accession.core.errors import UserError
from accession.db.engine import MIN_POSTGRESQL_VERSION

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
"""Folder of the migrations; each file in its `versions` is named after its revision, such as `0001_x.py`."""


@dataclass(frozen=True)
class SchemaState:
    """Schema revisions of the database and of this program."""

    revision: str | None
    """The database's revision; None for an empty database."""
    head: str
    """The newest revision that this program knows."""
    is_known: bool
    """False when the database's revision is unknown to this program, which means that it is newer."""

    @property
    def is_current(self) -> bool:
        """Return whether the database has this program's schema."""
        return self.revision == self.head


def _config(engine: Engine) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["engine"] = engine
    return config


def schema_state(engine: Engine) -> SchemaState:
    """Return the revisions of the database and of this program."""
    known = sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))
    revision = None
    with engine.connect() as connection:
        if connection.scalar(text("SELECT to_regclass('alembic_version')")):
            revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return SchemaState(revision, known[-1], revision is None or revision in known)


def upgrade(engine: Engine) -> SchemaState:
    """Migrate the database to this program's schema and return its state before.

    Concurrent upgrades wait for each other.

    Raises:
        UserError: PostgreSQL is too old, or the database is newer than this program; nothing is changed.
    """
    with engine.connect() as connection:
        version = connection.connection.dbapi_connection.info.server_version // 10000  # type: ignore[union-attr]
    if version < MIN_POSTGRESQL_VERSION:
        raise UserError(
            f"The database server is PostgreSQL {version}: Accession needs {MIN_POSTGRESQL_VERSION} or newer."
        )
    before = schema_state(engine)
    require_known_schema(before)
    if not before.is_current:
        from alembic import command

        command.upgrade(_config(engine), "head")
    return before


def require_known_schema(state: SchemaState) -> None:
    """Check that the database is not newer than this program.

    Raises:
        UserError: the database is newer.
    """
    if not state.is_known:
        raise UserError(
            f"The database has schema {state.revision}, which this version of Accession does not know: "
            "install the newer Accession that created it."
        )


def require_current(engine: Engine) -> str:
    """Return the database's revision, which is this program's.

    Raises:
        UserError: the database has another revision.
    """
    state = schema_state(engine)
    require_known_schema(state)
    if not state.is_current:
        raise UserError(f"{state.revision or 'none'} instead of {state.head}: run `accession db upgrade`")
    return state.head
