"""Secrets of `accession web`: passwords, tokens and cookies are in no log, process list, table or queue."""

from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.db.models import Base
from accession.local.servers import ServerUrls
from accession.web.sessions import COOKIE
from tests.fixtures.commands import background_command, environment, server_variables
from tests.fixtures.factories import PASSWORD
from tests.fixtures.machine import free_port, http_status
from tests.fixtures.waiting import wait_until
from tests.fixtures.web_client import bearer, make_feed_token, make_token

WRONG_PASSWORD = "the password of something else"
WRONG_TOKEN = "acc_" + "w" * 43


@dataclass(frozen=True)
class WebServerRun:
    """Secrets that were sent to a web server, its responses, its log, and its command line."""

    secrets: dict[str, str]
    responses: list[httpx.Response]
    log: str
    command_line: str


@pytest.fixture
def web_server_run(
    servers: ServerUrls, session: Session, ann: str, redis: Redis, tmp_path: Path
) -> WebServerRun:
    """Send valid and invalid logins and tokens to `accession --debug web`, and provoke an internal error."""
    token, feed_token = make_token(session), make_feed_token(session)
    port = free_port()
    env = environment(**server_variables(servers), ACCESSION_HOME=str(tmp_path), ACCESSION_WEB_PORT=str(port))
    with background_command("--debug", "web", env=env) as web:
        base_url = f"http://127.0.0.1:{port}"
        wait_until(lambda: http_status(f"{base_url}/login"))
        with httpx.Client(base_url=base_url, headers={"Origin": base_url}) as client:
            responses = [
                client.post("/login", data={"name": name, "password": password})
                for name, password in (("ann", WRONG_PASSWORD), (WRONG_PASSWORD, ""), ("ann", PASSWORD))
            ]
            cookie = client.cookies[COOKIE]
            responses.append(client.get("/login"))
            # An invalid role fails while the session cookie is processed.
            session.execute(text("UPDATE users SET role = 'king'"))
            session.commit()
            responses.append(client.get("/nowhere"))
            client.cookies.clear()
            responses += [client.get("/nowhere", headers=bearer(sent)) for sent in (token, WRONG_TOKEN)]
            responses += [client.get(f"/opds/nowhere?token={sent}") for sent in (feed_token, WRONG_TOKEN)]
            proxy_headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
            responses.append(client.get("/login", headers=proxy_headers))
        command_line = Path(f"/proc/{web.pid}/cmdline").read_text()
        web.terminate()
        log, _ = web.communicate()
    secrets = {
        "password": PASSWORD,
        "wrong password": WRONG_PASSWORD,
        "token": token,
        "feed token": feed_token,
        "wrong token": WRONG_TOKEN,
        "cookie": cookie,
    }
    return WebServerRun(secrets, responses, log, command_line)


def test_secrets_are_in_no_log_process_list_table_or_queue(
    web_server_run: WebServerRun, session: Session, redis: Redis
) -> None:
    statuses = [response.status_code for response in web_server_run.responses]
    assert statuses == [401, 401, 303, 303, 500, 404, 401, 404, 401, 200]
    for entry in ("login failed", "user logged in", "Traceback", "'king' is not a valid UserRole"):
        assert entry in web_server_run.log, web_server_run.log
    session.rollback()
    tables = "\n".join(
        row
        for table in Base.metadata.tables
        for row in session.scalars(text(f"SELECT t::text FROM {table} t"))  # noqa: S608
    )
    assert "ann" in tables
    keys = sorted(redis.scan_iter("accession:*"))
    counters = repr(
        [(key, redis.smembers(key) if redis.type(key) == b"set" else redis.get(key)) for key in keys]
    )
    assert "accession:logins:address:127.0.0.1" in counters
    for output in (web_server_run.log, web_server_run.command_line, tables, counters):
        assert [name for name, secret in web_server_run.secrets.items() if secret in output] == []


def test_responses_have_security_headers_and_trust_local_proxy(web_server_run: WebServerRun) -> None:
    for response in web_server_run.responses:
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert "server" not in response.headers
    hsts = [response.headers.get("strict-transport-security") for response in web_server_run.responses]
    assert hsts == [None] * 9 + ["max-age=31536000"]
