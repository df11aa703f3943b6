"""Check of the broker before anything uses it: it responds, permits what we need, and evicts no messages."""

import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from accession.core.errors import UserError
from accession.core.settings import get_settings
from accession.tasks.broker import BrokerUnavailable, broker_unavailable, broker_url, redis_client

_TIMEOUT_SECONDS = 5.0
_SAFE_POLICY = "noeviction"
_LOCKS = ("PurchaseRecordCollectionWorkflow:1", "BibliographicApply:1", "Scheduler")


def check_broker() -> str:
    """Return the broker's name and version, such as "valkey 9.0".

    Raises:
        BrokerUnavailable: it does not respond.
        UserError: it does not accept our certificate, user or commands, or it may evict messages.
    """
    url = broker_url(get_settings())
    with redis_client(
        url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
    ) as client:
        try:
            client.ping()
            _check_permissions(client)
            policy = _eviction_policy(client)
            name = _server_name(client)
        except RedisError as error:
            raise _explained(error) from error
    if policy is None:
        return f"{name}; its maxmemory-policy cannot be read, so make sure that it is {_SAFE_POLICY}"
    if policy != _SAFE_POLICY:
        raise UserError(
            "The broker may delete queued messages when its memory is full, because its maxmemory-policy is "
            f"{policy}: set it to {_SAFE_POLICY}."
        )
    return name


def _check_permissions(client: Redis) -> None:
    """Send the commands in a transaction that is discarded: the server checks each when it queues it."""
    database = client.get_connection_kwargs().get("db", 0)
    # Its methods have no types.
    connection: Any = client.connection_pool.get_connection()
    try:
        for command in (("MULTI",), *_needed_commands(database), ("DISCARD",)):
            connection.send_command(*command)
            connection.read_response()
    finally:
        connection.disconnect()


def _needed_commands(database: int) -> Sequence[tuple[str | int, ...]]:
    """Return a command of each kind that we, kombu and Celery use, with keys and channels of each kind."""
    return (
        ("EVAL", "return redis.call('time')", 1, "heartbeats:workers"),
        ("EVALSHA", "0" * 40, 0),
        ("SCRIPT", "EXISTS", "0" * 40),
        ("SCRIPT", "LOAD", "return 1"),
        ("TIME",),
        ("ZADD", "unacked_index:worker", 1, "tag"),
        ("HSET", "unacked:worker", "tag", ""),
        ("SET", "unacked_mutex:worker", ""),
        ("LPUSH", "default", ""),
        ("BRPOP", "apply", 1),
        ("SADD", "_kombu.binding.celery.pidbox", ""),
        ("LLEN", "worker.celery.pidbox"),
        ("DEL", "worker.reply.celery.pidbox"),
        ("SETEX", "celery-task-meta-id", 1, ""),
        ("HINCRBY", "metrics:requests", "field", 1),
        ("GETDEL", "vendor:prefetch:id:name"),
        ("INCR", "accession:logins:name"),
        *(("GETEX", lock) for lock in _LOCKS),
        ("SCAN", 0),
        ("PSUBSCRIBE", f"/{database}.celery.pidbox"),
        ("PUBLISH", f"/{database}.celeryev/worker.online", ""),
        ("PUBLISH", "celery-task-meta-id", ""),
    )


def _eviction_policy(client: Redis) -> str | None:
    """Return the setting `maxmemory-policy`, None if this user may read it nowhere."""
    with suppress(ResponseError, KeyError):
        return str(client.info("memory")["maxmemory_policy"])
    with suppress(ResponseError, KeyError):
        return str(client.config_get("maxmemory-policy")["maxmemory-policy"])
    return None


def _server_name(client: Redis) -> str:
    with suppress(ResponseError, KeyError):
        info = client.info("server")
        return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"
    return "redis of unknown version"


def _explained(error: RedisError) -> UserError:
    """Return what the user has to do about an error."""
    if isinstance(error, AuthenticationError):
        return UserError(
            f"The broker rejects the login ({_reason(error)}): correct user and password in "
            "ACCESSION_REDIS_URL."
        )
    if isinstance(error, NoPermissionError):
        return UserError(
            f"The user in ACCESSION_REDIS_URL has too few permissions ({_reason(error)}): give it those that "
            "docs/servers.md lists."
        )
    if isinstance(error, ResponseError):
        return UserError(
            f"The broker refuses a command ({_reason(error)}): check the server, and the number of the "
            "database in ACCESSION_REDIS_URL."
        )
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UserError(
                f"The certificate of the broker is not trusted ({cause.verify_message.rstrip('.')}): correct "
                "the host or the parameter ssl_ca_certs of ACCESSION_REDIS_URL."
            )
        # The end of a connection says nothing about TLS.
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            return UserError(
                f"TLS with the broker fails ({cause.reason or cause}): check the files in "
                "ACCESSION_REDIS_URL (ssl_ca_certs, and ssl_certfile and ssl_keyfile if the broker requires "
                "a certificate of its clients)."
            )
    return BrokerUnavailable(broker_unavailable(error))


def _reason(error: RedisError) -> str:
    return str(error).rstrip(".")


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
