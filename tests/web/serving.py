"""The web app as it is served, in a thread of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from starlette.types import ASGIApp

from accession.web.server import listen
from tests.tasks.conftest import eventually


@contextmanager
def served(app: ASGIApp) -> Iterator[httpx.Client]:
    """A client of the app, which listens on a free port until the context ends."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_config=None))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            eventually(lambda: server.started, "the app is served")
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(20)
