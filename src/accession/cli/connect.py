"""Find and open the database and the broker that a command works with."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import typer
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings, use_settings
from accession.db.engine import database_unavailable, engine, transaction
from accession.db.schema import require_known_schema, schema_state
from accession.local.servers import ServerUrls, running_servers

_POLL_SECONDS = 2.0


def resolve_servers() -> Settings:
    """Complete the settings with the URLs of the embedded servers, and return them.

    Configured URLs take precedence over the embedded servers that run for the home. A URL stays unset
    where there is neither. The completed settings become those of this process.
    """
    settings = get_settings()
    if settings.database_url is not None and settings.redis_url is not None:
        return settings
    running = running_servers(settings.home)
    if running is not None:
        settings = settings.model_copy(
            update={
                "database_url": settings.database_url or SecretStr(running.database_url),
                "redis_url": settings.redis_url or SecretStr(running.redis_url),
            }
        )
        use_settings(settings)
    return settings


def require_servers() -> ServerUrls:
    """Return the URLs of database and broker.

    Raises:
        UserError: a URL is not configured, and no embedded server runs for the home.
    """
    settings = resolve_servers()
    if settings.database_url is None or settings.redis_url is None:
        raise UserError(
            f"Accession is not running in {settings.home}: start it with `accession up`, "
            "or set ACCESSION_DATABASE_URL and ACCESSION_REDIS_URL."
        )
    return ServerUrls(settings.database_url.get_secret_value(), settings.redis_url.get_secret_value())


def require_broker() -> str:
    """Return the broker's name and version, such as "valkey 9.0".

    Commands call this before they use Celery, which would retry for a long time and log every attempt.

    Raises:
        BrokerUnavailable: the broker does not respond.
        UserError: the broker cannot be used as it is configured.
    """
    from accession.tasks.broker_check import check_broker

    require_servers()
    return check_broker()


def wait_for_broker() -> None:
    """Wait until the broker responds.

    Raises:
        UserError: the broker cannot be used as it is configured.
    """
    _wait_while(_find_broker_outage)


def _find_broker_outage() -> UserError | None:
    from accession.tasks.broker import BrokerUnavailable

    try:
        require_broker()
    except BrokerUnavailable as error:
        return error
    return None


def _wait_while(find_problem: Callable[[], UserError | None]) -> None:
    """Wait until there is no problem, and print each when it is met first."""
    reported = ""
    while (problem := find_problem()) is not None:
        if str(problem) != reported:
            reported = str(problem)
            typer.echo(f"Waiting. {reported}", err=True)
        time.sleep(_POLL_SECONDS)


@contextmanager
def open_catalogue(
    session_factory: Callable[[], AbstractContextManager[Session]] = transaction,
) -> Iterator[Session]:
    """Open a session on the catalogue's database: a `transaction`, or a `snapshot`.

    Raises:
        UserError: the database is unavailable, or its schema is older or newer than this program's.
    """
    require_servers()
    require_schema()
    with session_factory() as session:
        yield session


def require_schema(*, waits: bool = False) -> None:
    """Check that the database has this program's schema, or with `waits` wait until it does.

    Raises:
        UserError: the schema is newer than this program's. Without `waits` also if the schema is older or the
            database is unavailable.
    """
    if waits:
        _wait_while(_find_schema_problem)
    elif (problem := _find_schema_problem()) is not None:
        raise problem


def _find_schema_problem() -> UserError | None:
    """Return why the database cannot be used yet; None if it can.

    Raises:
        UserError: the schema is newer than this program's.
    """
    try:
        state = schema_state(engine())
    except OperationalError as error:
        unavailable = UserError(database_unavailable(error))
        unavailable.__cause__ = error
        return unavailable
    require_known_schema(state)
    if state.is_current:
        return None
    return UserError("The database schema is older than this version: run `accession db upgrade`.")
