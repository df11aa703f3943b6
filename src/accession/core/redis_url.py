"""URL of a Redis or Valkey server, as `ACCESSION_REDIS_URL` contains it."""

import re
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl

FORM = "redis://user:password@host:port/0, or rediss://... for TLS"

SOCKET_FORM = "unix://user:password@/path/of/socket?db=0"

TLS_SCHEME = "rediss"

SOCKET_SCHEME = "unix"

PEER = "requirepeer"
"""Parameter of a Unix socket: the user whose process must listen, as libpq's of the same name."""

# Names that redis-py, kombu and Celery understand alike.
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_VERIFICATION = "ssl_cert_reqs"
_VERIFIED = "required"

_URL = re.compile(
    r"(?P<scheme>[\w+.-]+)://((?P<login>[^/?#\s]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#,;\s]+)(:(?P<port>\d+))?"
    r"(/(?P<database>[^/?#\s]*))?(\?(?P<query>[^?#\s]*))?"
)
_SOCKET_URL = re.compile(r"unix://((?P<login>[^/?#@\s]*)@)?(?P<path>/[^?#\s]+)(\?(?P<query>[^?#\s]*))?")
_MALFORMED_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MAX_PORT = 65535


def validate_redis_url(url: str) -> None:
    """Check that all clients of the broker read the URL alike, and that its files exist.

    Raises:
        ValueError: they do not; the message contains no part of the URL that may be secret.
    """
    scheme = url.partition("://")[0]
    if re.fullmatch(r"(py)?amqps?", scheme):
        raise ValueError(
            "RabbitMQ is not supported, because the work of lost machines is found in data of Redis; "
            f"enter the URL of a Redis or Valkey server as {FORM}"
        )
    if "sentinel" in scheme:
        raise ValueError(
            "Redis Sentinel is not supported; enter the address of a TCP proxy or managed endpoint that "
            f"follows the primary, as {FORM}"
        )
    if scheme == SOCKET_SCHEME:
        _validate_socket_url(url)
        return
    match = _URL.fullmatch(url)
    if scheme not in ("redis", TLS_SCHEME) or match is None or _MALFORMED_ESCAPE.search(url):
        raise ValueError(
            f"enter it as {FORM}, and each of the characters :/?#@% in user or password as % and its code, "
            "such as %40 for @"
        )
    if match["port"] and not 0 < int(match["port"]) <= _MAX_PORT:
        raise ValueError(f"enter a port between 1 and {_MAX_PORT}")
    if not re.fullmatch(r"\d*", match["database"] or ""):
        raise ValueError(f"enter the number of a database after the host, as in {FORM}")
    _validate_query(match["query"] or "", is_tls=scheme == TLS_SCHEME)


def celery_url(url: str) -> str:
    """Return a valid URL in the form that Celery and kombu need."""
    match = _SOCKET_URL.fullmatch(url)
    if match is None:
        return with_verification(url)
    query = parse_qs(match["query"] or "")
    parameters = [f"virtual_host={query.get('db', ['0'])[0]}"]
    parameters += [pair for pair in (match["query"] or "").split("&") if pair.startswith(f"{PEER}=")]
    login = "" if match["login"] is None else f"{match['login']}@"
    return f"redis+socket://{login}{match['path']}?{'&'.join(parameters)}"


def without_peer(url: str) -> str:
    """Return a URL in the form that other programs understand, without the parameter that is ours."""
    location, _, query = url.partition("?")
    others = [pair for pair in query.split("&") if pair and not pair.startswith(f"{PEER}=")]
    return f"{location}?{'&'.join(others)}" if others else location


def with_verification(url: str) -> str:
    """Return a valid URL that states that TLS is verified, as Celery requires."""
    if not url.startswith(f"{TLS_SCHEME}://") or f"{_VERIFICATION}=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}{_VERIFICATION}={_VERIFIED}"


def _validate_socket_url(url: str) -> None:
    match = _SOCKET_URL.fullmatch(url)
    if match is None or _MALFORMED_ESCAPE.search(url):
        raise ValueError(
            f"enter it as {SOCKET_FORM}, and each of the characters :/?#@% in user or password as % and its "
            "code, such as %40 for @"
        )
    for name, value in _parse_query(match["query"] or ""):
        if name not in ("db", PEER):
            raise ValueError(f"it contains the parameter {name}; those of a Unix socket are db and {PEER}")
        if name == "db" and not value.isdecimal():
            raise ValueError(f"enter the number of a database, as in {SOCKET_FORM}")


def _validate_query(query: str, *, is_tls: bool) -> None:
    for name, value in _parse_query(query):
        if name not in (*_FILES, _VERIFICATION):
            raise ValueError(f"it contains the parameter {name}; the parameters are {', '.join(_FILES)}")
        if not is_tls:
            raise ValueError(f"the parameter {name} needs TLS; begin the URL with {TLS_SCHEME}://")
        if name == _VERIFICATION and value != _VERIFIED:
            raise ValueError(
                "the broker's certificate is always verified; instead of ssl_cert_reqs, enter the file of "
                "its authority as ssl_ca_certs"
            )
        if name in _FILES and not Path(value).is_file():
            raise ValueError(f"the file {value} of the parameter {name} does not exist")


def _parse_query(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("enter the parameters after the question mark as name=value&name=value") from None
