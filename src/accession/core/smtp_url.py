"""URL of a mail server, as `ACCESSION_SMTP_URL` contains it."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from accession.core.loopback import is_loopback

_PORTS = {"smtp": 25, "smtps": 465}
_PORT_WITH_LOGIN = 587


@dataclass(frozen=True)
class SmtpServer:
    """A mail server.

    Attributes:
        host: Name or address.
        port: Port.
        is_tls: Whether the connection begins with TLS; otherwise STARTTLS is used.
        user: Name to log in with; None without a login.
        password: Password.
    """

    host: str
    port: int
    is_tls: bool
    user: str | None
    password: SecretStr

    @property
    def is_local(self) -> bool:
        """Return whether the server is on this machine, so that no encryption is needed."""
        return is_loopback(self.host)


def parse_smtp_url(url: SecretStr) -> SmtpServer:
    """Parse a URL such as `smtps://user:password@mail.example`.

    Raises:
        ValueError: it is not such a URL; the message contains no part of it.
    """
    form = "enter it as smtp://host, smtp://user:password@host:587 or smtps://user:password@host"
    try:
        parts = urlsplit(url.get_secret_value().strip())
        port = parts.port
    except ValueError:
        raise ValueError(form) from None
    is_complete = parts.scheme in _PORTS and parts.hostname and port != 0
    if not is_complete or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(form)
    if (parts.username is None) != (parts.password is None):
        raise ValueError(f"{form}, with both user and password or neither")
    user = None if parts.username is None else unquote(parts.username)
    default_port = _PORT_WITH_LOGIN if user and parts.scheme == "smtp" else _PORTS[parts.scheme]
    return SmtpServer(
        host=parts.hostname or "",
        port=port or default_port,
        is_tls=parts.scheme == "smtps",
        user=user,
        password=SecretStr(unquote(parts.password or "")),
    )
