"""`accession web` as it is served: passwords, tokens and cookies stand nowhere but where they belong."""

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
from tests.fixtures.commands import environment, process
from tests.fixtures.factories import PASSWORD
from tests.fixtures.machine import eventually, free_port, status_of
from tests.fixtures.web_client import make_feed_token, make_token

WRONG_PASSWORD = "the password of something else"
WRONG_TOKEN = "acc_" + "w" * 43


@dataclass(frozen=True)
class Served:
    """What there was to keep secret, and what was told while it was used."""

    secrets: dict[str, str]
    answers: list[httpx.Response]
    log: str
    arguments: str


@pytest.fixture
def served(servers: ServerUrls, session: Session, ann: str, redis: Redis, tmp_path: Path) -> Served:
    """Logins, good and bad, tokens, good and bad, and a bug, all logged in full."""
    token, feed_token = make_token(session), make_feed_token(session)
    port = free_port()
    env = environment(
        ACCESSION_HOME=str(tmp_path),
        ACCESSION_DATABASE_URL=servers.database_url,
        ACCESSION_REDIS_URL=servers.redis_url,
        ACCESSION_WEB_PORT=port,
    )
    with process("--debug", "web", env=env) as web:
        base_url = f"http://127.0.0.1:{port}"
        eventually(lambda: status_of(f"{base_url}/login"))
        with httpx.Client(base_url=base_url, headers={"Origin": base_url}) as client:
            answers = [
                client.post("/login", data={"name": name, "password": password})
                for name, password in (("ann", WRONG_PASSWORD), (WRONG_PASSWORD, ""), ("ann", PASSWORD))
            ]
            cookie = client.cookies[COOKIE]
            answers.append(client.get("/login"))
            # A row that no program of ours writes: the page meets a bug while it looks at the cookie.
            session.execute(text("UPDATE users SET role = 'king'"))
            session.commit()
            answers.append(client.get("/nowhere"))
            client.cookies.clear()
            for shown in (token, WRONG_TOKEN):
                answers.append(client.get("/nowhere", headers={"Authorization": f"Bearer {shown}"}))
            for shown in (feed_token, WRONG_TOKEN):
                answers.append(client.get(f"/opds/nowhere?token={shown}"))
            by_tls = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
            answers.append(client.get("/login", headers=by_tls))
        arguments = Path(f"/proc/{web.pid}/cmdline").read_text()
        web.terminate()
        log, _ = web.communicate()
    secrets = {
        "a password": PASSWORD,
        "a wrong password": WRONG_PASSWORD,
        "a token": token,
        "a token of a feed": feed_token,
        "a wrong token": WRONG_TOKEN,
        "a cookie": cookie,
    }
    return Served(secrets, answers, log, arguments)


def test_neither_log_nor_process_list_nor_database_nor_broker_tells_one(
    served: Served, session: Session, redis: Redis
) -> None:
    assert [answer.status_code for answer in served.answers] == [
        401,
        401,
        303,
        303,
        500,
        404,
        401,
        404,
        401,
        200,
    ]
    for said in ("a login has failed", "a user has logged in", "Traceback", "'king' is not a valid Role"):
        assert said in served.log, served.log
    session.rollback()
    tables = "\n".join(
        row
        for table in Base.metadata.tables
        for row in session.scalars(text(f"SELECT t::text FROM {table} t"))  # noqa: S608
    )
    assert "ann" in tables
    counted = repr([(key, redis.get(key)) for key in redis.scan_iter("accession:*")])
    assert "accession:logins:address:127.0.0.1" in counted
    for place in (served.log, served.arguments, tables, counted):
        assert [name for name, secret in served.secrets.items() if secret in place] == []


def test_what_is_served_has_its_headers_and_not_the_servers_name(served: Served) -> None:
    for answer in served.answers:
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


def test_a_proxy_on_this_machine_is_believed_that_it_was_asked_by_tls(served: Served) -> None:
    told = [answer.headers.get("strict-transport-security") for answer in served.answers]
    assert told == [None] * 9 + ["max-age=31536000"]
