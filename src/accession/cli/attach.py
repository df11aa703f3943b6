"""Reaching the servers that a command works with, whoever started them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from pydantic import SecretStr
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings, use_settings
from accession.db.engine import engine, transaction
from accession.db.schema import refuse_newer, schema_state
from accession.local.servers import ServerUrls, running_servers


def attach() -> Settings:
    """Settle which database and broker this process uses: the configured ones, else the embedded
    servers that run for this home. A URL stays unset where there is neither."""
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


def attached_servers() -> ServerUrls:
    """Both servers' URLs, settled by `attach`; raises `UserError` when one is neither set nor running."""
    settings = attach()
    if settings.database_url is None or settings.redis_url is None:
        raise UserError(
            f"Accession is not running in {settings.home}: start it with `accession up`, "
            "or set ACCESSION_DATABASE_URL and ACCESSION_REDIS_URL."
        )
    return ServerUrls(settings.database_url.get_secret_value(), settings.redis_url.get_secret_value())


def require_broker() -> str:
    """The broker's name and version.

    Raises `UserError` when it does not answer; Celery would go on trying for long, and loudly.
    """
    from redis import Redis, RedisError

    url = attached_servers().redis_url
    try:
        with Redis.from_url(url, retry=None, socket_connect_timeout=5) as client:
            said = client.info("server")
        return f"{said.get('server_name', 'redis')} {said.get('valkey_version', said['redis_version'])}"
    except ValueError as error:
        raise UserError(
            f"The broker's URL cannot be used ({error}): give ACCESSION_REDIS_URL as redis://host:port/0."
        ) from None
    except RedisError as error:
        raise UserError(silent_broker(error)) from error


def silent_broker(error: Exception) -> str:
    """What to tell a person when the broker does not answer."""
    return f"The broker does not answer ({error}): see that it runs and that ACCESSION_REDIS_URL is right."


@contextmanager
def catalogue(opened: Callable[[], AbstractContextManager[Session]] = transaction) -> Iterator[Session]:
    """A transaction, or a `snapshot`, of the catalogue's database, whose schema is the program's.

    Raises `UserError` when the database cannot be reached, or is older or newer than the program.
    """
    attached_servers()
    try:
        state = schema_state(engine())
    except OperationalError as error:
        address = engine().url.set(password=None).render_as_string()
        raise UserError(
            f"The database at {address} does not answer ({first_line(error)}): "
            "see that it runs and that ACCESSION_DATABASE_URL is right."
        ) from error
    refuse_newer(state)
    if not state.current:
        raise UserError("The database has an older schema than this program: run `accession db upgrade`.")
    with opened() as session:
        yield session


def first_line(error: OperationalError) -> str:
    """What the database's driver says, without its hints."""
    return str(error.orig).strip().splitlines()[0]
