"""Health checks of the database, workers and scheduler, for `/readyz` and `accession doctor`.

Each check returns what it found in words without host names or secrets, or raises.
"""

from accession.core.errors import UserError
from accession.db.engine import engine, server_version
from accession.db.schema import require_current
from accession.tasks.heartbeats import read_heartbeats


def check_database() -> str:
    """Return the database server's version.

    Raises:
        SQLAlchemyError: the database does not respond.
    """
    return f"PostgreSQL {server_version(engine())}"


def check_schema() -> str:
    """Return the revision of the database schema.

    Raises:
        UserError: the schema is not the one that this program needs.
        SQLAlchemyError: the database does not respond.
    """
    return require_current(engine())


def check_workers() -> str:
    """Return the number of workers with a recent heartbeat.

    Raises:
        UserError: there is none.
        RedisError: the broker does not respond.
    """
    workers = read_heartbeats().workers
    if not workers:
        raise UserError(
            "no heartbeat in the last 30 seconds: start a worker with `accession up`, or `accession worker`"
        )
    return f"{workers} running"


def check_scheduler() -> str:
    """Return when the scheduler last checked its schedule.

    Raises:
        UserError: that was more than a minute ago, or never.
        RedisError: the broker does not respond.
    """
    heartbeats = read_heartbeats()
    if heartbeats.is_scheduler_overdue:
        raise UserError(f"{heartbeats.scheduler_status}: start it with `accession up`, or `accession beat`")
    return heartbeats.scheduler_status
