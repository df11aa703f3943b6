"""URL of a PostgreSQL database, with several hosts if required, as `ACCESSION_DATABASE_URL` contains it."""

import re
from urllib.parse import unquote

FORM = "postgresql://user:password@host:port/database"

_SCHEME = re.compile(r"postgres(ql)?(\+psycopg)?://")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@]*)(:(?P<port>\d*))?")
_MALFORMED_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_MAX_PORT = 65535
_MALFORMED = (
    f"enter it as {FORM}, and each of the characters :/?#@% in user or password as % and its code, such as "
    "%40 for @"
)
# Clients have it since PostgreSQL 16.
_REQUIRE_AUTH = "require_auth=scram-sha-256"
_BEFORE_QUERY = ("user", "password", "dbname", "host", "port")


def parse_database_url(url: str) -> dict[str, str]:
    """Return the connection parameters of libpq that the URL contains.

    Several hosts are separated by commas; then the one that accepts writes is used unless the URL says
    otherwise. The folder of a Unix domain socket may also be the parameter `host`.

    Raises:
        ValueError: the URL is malformed or ambiguous; the message contains no part of it that may be secret.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise ValueError(f"enter it as {FORM}")
    location, _, query = url[scheme.end() :].partition("?")
    authority, _, database = location.partition("/")
    login, _, hosts = authority.rpartition("@")
    user, _, password = login.partition(":")
    if "/" in database or "@" in database:
        raise ValueError(_MALFORMED)
    names = {"user": user, "password": password, "dbname": database}
    parameters = {name: _decode(value) for name, value in names.items() if value}
    parameters |= _parse_hosts(hosts)
    parameters |= _parse_query(query, has_host="host" in parameters)
    if "," in parameters.get("host", ""):
        # The others are standbys, which accept no writes.
        parameters.setdefault("target_session_attrs", "read-write")
    return parameters


def with_password_protection(url: str) -> str:
    """Return a URL with parameters such that its password is sent to no server in clear text."""
    return f"{url}{'&' if '?' in url else '?'}{_REQUIRE_AUTH}"


def without_password_protection(url: str) -> str:
    """Return such a URL in a form that clients before PostgreSQL 16 understand too."""
    return url.removesuffix(_REQUIRE_AUTH).rstrip("?&")


def _parse_hosts(text: str) -> dict[str, str]:
    """Parse `host1:port1,host2:port2`; hosts and ports are lists separated by commas, as libpq has them."""
    matches = [_HOST.fullmatch(each) for each in text.split(",")]
    hosts = [_decode(match["host"]).strip("[]") for match in matches if match]
    ports = [match["port"] or "" for match in matches if match]
    if len(hosts) < len(matches) or any(re.search(r"[\s,@]", host) for host in hosts):
        raise ValueError(_MALFORMED)
    if any(port and not 0 < int(port) <= _MAX_PORT for port in ports):
        raise ValueError(f"enter a port between 1 and {_MAX_PORT}")
    if len(hosts) > 1 and not all(hosts):
        raise ValueError("enter several hosts as host1:port1,host2:port2, none of them empty")
    lists = {"host": ",".join(hosts), "port": ",".join(ports) if any(ports) else ""}
    return {name: value for name, value in lists.items() if value}


def _parse_query(query: str, *, has_host: bool) -> dict[str, str]:
    """Parse `name=value&name=value`."""
    parameters: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not name.isidentifier() or not equals:
            raise ValueError("enter the parameters after the question mark as name=value&name=value")
        if name in parameters:
            raise ValueError(
                f"it contains the parameter {name} twice; enter several hosts as host1:port1,host2:port2"
            )
        parameters[name] = _decode(value)
    is_socket = not has_host and parameters.get("host", "").startswith("/")
    for name in _BEFORE_QUERY:
        if name in parameters and not (is_socket and name in ("host", "port")):
            raise ValueError(
                f"it contains the parameter {name} after the question mark; enter it before, as in {FORM}, "
                "and several hosts as host1:port1,host2:port2"
            )
    return parameters


def _decode(text: str) -> str:
    """Replace percent-encoded bytes."""
    try:
        if _MALFORMED_ESCAPE.search(text):
            raise ValueError
        return unquote(text, errors="strict")
    except ValueError:
        raise ValueError("enter % itself as %25, and other characters as the codes of their UTF-8") from None
