"""What Alembic runs to migrate: on the engine it is given, in one transaction."""

from alembic import context
from sqlalchemy import text

from accession.db.engine import engine as configured_engine
from accession.db.models import Base

# An arbitrary number that all programs migrating an Accession database agree on.
_TAKING_TURNS = 20140101

with (context.config.attributes.get("engine") or configured_engine()).connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_TAKING_TURNS})"))
        context.run_migrations()
