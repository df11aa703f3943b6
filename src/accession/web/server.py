"""Serving the web app: a listener, and uvicorn on it."""

import socket
from contextlib import suppress

from accession.core.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises `UserError` when it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UserError(
            f"The dashboard cannot be served at {host}, port {port} ({error.strerror}): choose others with "
            "ACCESSION_WEB_HOST and ACCESSION_WEB_PORT, or port 0 for no dashboard."
        ) from None
    listener.listen(256)
    return listener


def serve(host: str, port: int) -> None:
    """Serve dashboard and API until SIGTERM or Ctrl-C. Raises `UserError` when it cannot listen there."""
    # The commands that only look whether they could listen need none of it.
    import uvicorn

    from accession.web.app import create_app

    with listen(host, port) as listener, suppress(KeyboardInterrupt):
        config = uvicorn.Config(
            create_app(), access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=2
        )
        # uvicorn stops in good order, then lets Ctrl-C rise again.
        uvicorn.Server(config).run(sockets=[listener])
