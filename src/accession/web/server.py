"""The web server: a listening socket, and uvicorn on it."""

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from accession.auth.users import is_login_required
from accession.core.errors import UserError
from accession.core.loopback import is_loopback

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from accession.web.connections import ConnectionLimits

_MAX_HEAD_BYTES = 32 * 1024


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at the address.

    Raises:
        UserError: the address is in use or does not exist.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UserError(
            f"The dashboard cannot listen at {host}, port {port} ({error.strerror}): choose another address "
            "with ACCESSION_WEB_HOST and ACCESSION_WEB_PORT, or port 0 for no dashboard."
        ) from None
    listener.listen(256)
    return listener


def inherited_host(descriptor: int) -> str:
    """Return the address at which the socket listens that this process has inherited with this number.

    Raises:
        UserError: there is no such socket.
    """
    try:
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            return str(listener.getsockname()[0])
    except OSError as error:
        raise UserError(
            f"The dashboard cannot use the open socket {descriptor} ({error.strerror}): correct --fd, or "
            "leave it out to listen at ACCESSION_WEB_HOST and ACCESSION_WEB_PORT."
        ) from None


def serve(app: "ASGIApp", listener: socket.socket) -> None:
    """Serve dashboard and API on a listening socket until SIGTERM or Ctrl-C."""
    with listener, suppress(KeyboardInterrupt):
        # uvicorn shuts down cleanly on Ctrl-C and then raises KeyboardInterrupt again.
        create_server(app).run(sockets=[listener])


def create_server(app: "ASGIApp", limits: "ConnectionLimits | None" = None) -> "uvicorn.Server":
    """Return an HTTP server of the app; its `run` takes the sockets to listen on."""
    # Imported late: commands that only check the address start faster without them.
    import uvicorn

    from accession.web.connections import ConnectionLimits, limited_protocol
    from accession.web.forwarded import ForwardedHeaders

    config = uvicorn.Config(
        app,
        proxy_headers=False,
        http=limited_protocol(limits or ConnectionLimits()),
        ws="none",
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    # In place of uvicorn's own middleware, which knows neither the host nor the path.
    config.app = ForwardedHeaders(app, config.forwarded_allow_ips)  # type: ignore[arg-type]
    return uvicorn.Server(config)


def require_user_unless_loopback(session: Session, host: str) -> None:
    """Check that the dashboard is not served to other machines while nobody can log in.

    Raises:
        UserError: `host` is not a loopback address, no user exists, and there is no provider.
    """
    if not is_loopback(host) and not is_login_required(session):
        raise UserError(
            f"The dashboard cannot be served at {host}, which other machines can reach, without a user: "
            "add one with `accession users add NAME --role administrator`, or unset ACCESSION_WEB_HOST."
        )
