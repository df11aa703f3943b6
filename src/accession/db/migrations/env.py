"""Alembic environment: run the migrations on the given engine in one transaction."""

from alembic import context
from sqlalchemy import text

from accession.db.engine import engine as configured_engine
from accession.db.models import Base
from accession.db.responsive_connection import wait_without_limit

# Key of the advisory lock that makes concurrent migrations wait for each other; arbitrary, but fixed for
# ever.
_MIGRATION_LOCK_KEY = 20140101

with (context.config.attributes.get("engine") or configured_engine()).connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        wait_without_limit(connection)
        # An upgrade waits for transactions that use the old schema, however long they take.
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK_KEY})"))
        context.run_migrations()
