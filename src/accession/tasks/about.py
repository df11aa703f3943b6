"""Versions and processes of an installation."""

from dataclasses import dataclass
from platform import python_version

from redis import RedisError

from accession import __version__
from accession.core.errors import UserError
from accession.db.blocking import BlockingSession, find_blocking_sessions
from accession.db.engine import engine, server_version, transaction
from accession.db.schema import schema_state
from accession.tasks.broker import APPLY_QUEUE, DEFAULT_QUEUE, BrokerUnavailable, broker_unavailable
from accession.tasks.broker_check import check_broker
from accession.tasks.heartbeats import WorkerHeartbeat, read_heartbeats, read_workers
from accession.tasks.metrics import queue_depths


@dataclass(frozen=True)
class QueueView:
    """A queue: its messages that wait for a worker, and those that a worker processes or will retry."""

    name: str
    waiting: int
    unacknowledged: int


@dataclass(frozen=True)
class ProcessesView:
    """Running workers, the scheduler's last tick and the queues, as the broker has them.

    `broker` is its name and version. The age is None if no tick is recorded.
    """

    broker: str
    workers: list[WorkerHeartbeat]
    scheduler_tick_age_seconds: int | None
    scheduler_is_overdue: bool
    queues: list[QueueView]


@dataclass(frozen=True)
class AboutView:
    """Versions and processes of the installation.

    `schema` is the revision of the database; other sessions wait for the `blocking_sessions`. Without a
    usable broker `processes` is None, and `broker_problem` says why, without naming its host.
    """

    version: str
    python: str
    postgresql: str
    schema: str | None
    processes: ProcessesView | None
    broker_problem: str | None
    blocking_sessions: list[BlockingSession]


def about_installation() -> AboutView:
    """Return versions and processes of the installation.

    Raises:
        SQLAlchemyError: the database is unavailable.
    """
    processes, problem = None, None
    try:
        processes = _processes()
    except (RedisError, BrokerUnavailable):
        problem = broker_unavailable()
    except UserError as error:
        problem = str(error)
    database = engine()
    with transaction() as session:
        blocking_sessions = find_blocking_sessions(session)
    return AboutView(
        version=__version__,
        python=python_version(),
        postgresql=server_version(database),
        schema=schema_state(database).revision,
        processes=processes,
        broker_problem=problem,
        blocking_sessions=blocking_sessions,
    )


def _processes() -> ProcessesView:
    heartbeats = read_heartbeats()
    depths = queue_depths([DEFAULT_QUEUE, APPLY_QUEUE])
    return ProcessesView(
        broker=check_broker(),
        workers=read_workers(),
        scheduler_tick_age_seconds=heartbeats.scheduler_tick_age_seconds,
        scheduler_is_overdue=heartbeats.is_scheduler_overdue,
        queues=[QueueView(name, depth.waiting, depth.unacknowledged) for name, depth in depths.items()],
    )
