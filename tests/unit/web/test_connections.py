"""Slow clients, and clients with many connections, do not keep others out."""

import asyncio
import resource
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from accession.web.connections import ConnectionLimits
from tests.fixtures.waiting import DEADLINE_SECONDS, wait_until
from tests.fixtures.web_server import serve_app

HALF_HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
HEAD = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
UPLOAD = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\nsome"

LONG = 10 * DEADLINE_SECONDS
PATIENT = ConnectionLimits(head_seconds=LONG, body_seconds=LONG, stalled_seconds=LONG)

# Trusted as a proxy; the other addresses are those of clients.
PROXY, ATTACKER, OTHER = "127.0.0.1", "127.0.0.66", "127.0.0.7"


@dataclass
class App:
    """ASGI app with a path for each way to use a connection.

    Attributes:
        disconnected: paths of requests whose client the server has given up.
        clients: addresses of the clients as the app sees them.
        resume: lets requests of `/wait` end.
    """

    disconnected: list[str] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    resume: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with "ok"; before that `/upload` reads the body; `/endless` responds without end."""
        if scope["type"] != "http":
            return
        self.clients.append(scope["client"][0])
        if scope["path"] == "/upload" and await self._is_disconnected(receive):
            self.disconnected.append(scope["path"])
            return
        if scope["path"] == "/wait":
            await asyncio.to_thread(self.resume.wait, DEADLINE_SECONDS)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/endless":
            reading = asyncio.ensure_future(self._is_disconnected(receive))
            while not reading.done():
                await send({"type": "http.response.body", "body": bytes(64 * 1024), "more_body": True})
                # Writing to a connection that has ended does not suspend this task.
                await asyncio.sleep(0)
            self.disconnected.append(scope["path"])
            return
        await send({"type": "http.response.body", "body": b"ok"})

    @staticmethod
    async def _is_disconnected(receive: Receive) -> bool:
        """Read the body, and after it wait for the end of the connection."""
        message: Message = {}
        while message.get("type") != "http.disconnect":
            message = await receive()
        return True


@dataclass
class Running:
    """A served app; `client` is an HTTP client of it, at the address of a trusted proxy."""

    app: App
    client: httpx.Client

    def connect(self, address: str, sent: bytes = b"") -> socket.socket:
        """Open a connection from an address of this machine, and send something."""
        port = self.client.base_url.port
        assert port is not None
        connection = socket.create_connection(
            ("127.0.0.1", port), timeout=DEADLINE_SECONDS, source_address=(address, 0)
        )
        connection.sendall(sent)
        return connection

    def get(self, address: str, path: str = "/") -> int:
        """Send a request from an address, and return the status."""
        transport = httpx.HTTPTransport(local_address=address, verify=False)
        with httpx.Client(transport=transport, timeout=DEADLINE_SECONDS) as client:
            return client.get(self.client.base_url.join(path)).status_code


@contextmanager
def serve(limits: ConnectionLimits, *, host: str = "127.0.0.1") -> Iterator[Running]:
    """Serve the app with these limits."""
    app = App()
    with serve_app(app, limits, host=host) as client:
        try:
            yield Running(app, client)
        finally:
            app.resume.set()


def is_closed(connection: socket.socket) -> bool:
    """Return whether the server has closed the connection; what it sent before is dropped."""
    # select() accepts no file descriptor above 1023.
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    try:
        while poll.poll(0):
            if not connection.recv(65_536):
                return True
    except ConnectionError:
        return True
    return False


def wait_until_closed(connection: socket.socket, *, sending: bytes = b"") -> None:
    """Wait until the server has closed the connection, and meanwhile keep sending."""

    def send_and_check() -> bool:
        try:
            connection.sendall(sending)
        except ConnectionError:
            return True
        return is_closed(connection)

    wait_until(send_and_check, "the server closes the connection")


@pytest.mark.parametrize("sent", [b"", HALF_HEAD])
def test_connection_without_complete_request_is_closed(sent: bytes) -> None:
    with serve(ConnectionLimits(head_seconds=0.2)) as running, running.connect(OTHER, sent) as connection:
        wait_until_closed(connection)


def test_head_sent_byte_by_byte_does_not_extend_the_time() -> None:
    with serve(ConnectionLimits(head_seconds=0.2)) as running:
        with running.connect(OTHER, HALF_HEAD) as connection:
            wait_until_closed(connection, sending=b"a")
        assert running.app.clients == []


def test_next_request_of_a_connection_has_a_timeout_too() -> None:
    with serve(ConnectionLimits(head_seconds=0.2)) as running:
        with running.connect(OTHER, HEAD % b"/" + HALF_HEAD) as connection:
            wait_until_closed(connection, sending=b"a")
        assert running.app.clients == [OTHER]


@pytest.mark.parametrize("sending", [b"", b"a"])
def test_body_that_is_not_completed_ends_the_request(sending: bytes) -> None:
    with serve(ConnectionLimits(body_seconds=0.2)) as running:
        with running.connect(OTHER, UPLOAD % b"/upload") as connection:
            wait_until_closed(connection, sending=sending)
        wait_until(lambda: running.app.disconnected == ["/upload"])


def test_body_that_the_app_does_not_read_has_a_timeout() -> None:
    limits = ConnectionLimits(body_seconds=0.2)
    with serve(limits) as running, running.connect(OTHER, UPLOAD % b"/") as connection:
        wait_until_closed(connection, sending=b"a")


def test_client_that_stops_reading_is_disconnected() -> None:
    with serve(ConnectionLimits(stalled_seconds=0.2)) as running, running.connect(OTHER) as connection:
        connection.sendall(HEAD % b"/endless")
        wait_until(lambda: running.app.disconnected == ["/endless"])
        wait_until_closed(connection)


def test_client_that_reads_is_not_disconnected() -> None:
    with serve(PATIENT) as running, running.connect(OTHER, HEAD % b"/endless") as connection:
        received = 0
        while received < 32 * 1024 * 1024:
            received += len(connection.recv(1024 * 1024))
        assert running.app.disconnected == []


def test_time_of_the_app_is_not_limited() -> None:
    limits = ConnectionLimits(head_seconds=0.2, body_seconds=0.2, stalled_seconds=0.2)
    with serve(limits) as running, running.connect(OTHER, HEAD % b"/wait") as connection:
        wait_until(lambda: running.app.clients)
        with running.connect(OTHER, HALF_HEAD) as later:
            wait_until_closed(later)
        running.app.resume.set()
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")


def test_head_that_is_too_long_is_rejected() -> None:
    with serve(PATIENT) as running, running.connect(OTHER, HALF_HEAD + b"a" * 40_000) as connection:
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")
        wait_until_closed(connection)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process, which is client and server, have thousands of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 4000
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"the limit of open files is {hard}, and {needed} are needed")
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_half_requests(running: Running, stack: ExitStack, *addresses: str) -> list[socket.socket]:
    """Begin a request from each address, and never complete it."""

    def open_one(address: str) -> socket.socket:
        connection = stack.enter_context(running.connect(address))
        # The server may have closed it already.
        with suppress(ConnectionError):
            connection.sendall(HALF_HEAD)
        return connection

    return [open_one(address) for address in addresses]


def test_1500_half_open_requests_do_not_keep_others_out(many_files: None) -> None:
    with serve(PATIENT) as running, ExitStack() as stack:
        attack = open_half_requests(running, stack, *[ATTACKER] * 1500)
        assert running.get(OTHER) == 200
        wait_until(lambda: sum(map(is_closed, attack)) == 1400)
        assert running.get(ATTACKER) == 200


def test_1500_half_open_requests_are_closed_after_the_timeout(many_files: None) -> None:
    limits = ConnectionLimits(head_seconds=0.5, per_client=2000, total=2000)
    with serve(limits) as running, ExitStack() as stack:
        attack = open_half_requests(running, stack, *[ATTACKER] * 1500)
        wait_until(lambda: all(map(is_closed, attack)))


def test_half_open_requests_of_many_clients_keep_nobody_out() -> None:
    limits = replace(PATIENT, total=20)
    with serve(limits) as running, ExitStack() as stack:
        attack = open_half_requests(running, stack, *[f"127.0.1.{number}" for number in range(1, 61)])
        assert running.get(OTHER) == 200
        wait_until(lambda: sum(map(is_closed, attack)) >= 40)
        assert [is_closed(connection) for connection in attack[-19:]].count(True) <= 1


def test_clients_that_do_not_read_keep_nobody_out() -> None:
    with serve(replace(PATIENT, total=3)) as running, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(running.connect(PROXY, HEAD % b"/endless"))
        wait_until(lambda: len(running.app.clients) == 3)

        def is_served() -> bool:
            # Refused until the buffers between server and clients are full.
            with suppress(httpx.TransportError):
                return running.get(OTHER) == 200
            return False

        wait_until(is_served)
        wait_until(lambda: running.app.disconnected)


def test_requests_in_progress_are_not_closed_for_new_ones() -> None:
    with serve(replace(PATIENT, per_client=2)) as running, ExitStack() as stack:
        busy = [stack.enter_context(running.connect(OTHER, HEAD % b"/wait")) for _ in range(2)]
        wait_until(lambda: len(running.app.clients) == 2)
        wait_until_closed(stack.enter_context(running.connect(OTHER)))
        assert running.get(ATTACKER) == 200
        running.app.resume.set()
        assert [connection.recv(15) for connection in busy] == [b"HTTP/1.1 200 OK"] * 2


def test_trusted_proxy_may_have_more_connections_than_a_client() -> None:
    with serve(replace(PATIENT, per_client=1)) as running, ExitStack() as stack:
        connections = [stack.enter_context(running.connect(PROXY, HEAD % b"/wait")) for _ in range(5)]
        wait_until(lambda: len(running.app.clients) == 5)
        running.app.resume.set()
        assert [connection.recv(15) for connection in connections] == [b"HTTP/1.1 200 OK"] * 5


def test_proxy_on_other_machine_is_trusted_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", OTHER)
    with serve(replace(PATIENT, per_client=1)) as running, ExitStack() as stack:
        connections = [stack.enter_context(running.connect(OTHER, HALF_HEAD)) for _ in range(3)]
        refused = [stack.enter_context(running.connect(PROXY, HALF_HEAD)) for _ in range(3)]
        wait_until(lambda: sum(map(is_closed, refused)) == 2)
        assert not any(map(is_closed, connections))


def test_ipv4_client_of_ipv6_server_has_its_ipv4_address() -> None:
    """All IPv4 clients would otherwise count as one, and a proxy among them would not be trusted."""
    with serve(PATIENT, host="::") as running:
        assert running.client.get("/", headers={"X-Forwarded-For": "192.0.2.9"}).status_code == 200
        assert running.get(OTHER) == 200
        assert running.app.clients == ["192.0.2.9", OTHER]


def test_slow_and_refused_clients_are_logged() -> None:
    limits = replace(PATIENT, body_seconds=0.2, per_client=1)
    with capture_logs() as logs, serve(limits) as running, ExitStack() as stack:
        open_half_requests(running, stack, *[ATTACKER] * 5)
        wait_until_closed(stack.enter_context(running.connect(OTHER, UPLOAD % b"/upload")))
    events = [entry for entry in logs if "address" in entry]
    assert events == [
        {"event": "too many connections", "log_level": "warning", "address": ATTACKER, "connections": 1},
        {"event": "slow client disconnected", "log_level": "info", "address": OTHER, "during": "request"},
    ]
