"""Check of the broker at start: a broker that is unavailable, rejects us, or may lose messages."""

from collections.abc import Iterator
from typing import Any

import pytest

from accession.core.errors import UserError
from accession.local.servers import ServerUrls
from tests.fixtures.broker import Broker
from tests.fixtures.commands import settings
from tests.fixtures.machine import free_port

USER = "librarian"


def check(url: str) -> str:
    from accession.tasks.broker_check import check_broker

    with settings(redis_url=url):
        return check_broker()


def refusal(url: str) -> str:
    with pytest.raises(UserError) as error:
        check(url)
    return str(error.value)


def set_rules(broker: Broker, *rules: str) -> None:
    """Add rules to those of the user."""
    admin: Any = broker.redis
    admin.execute_command("ACL", "SETUSER", USER, *rules)


@pytest.fixture
def restricted_url(broker: Broker, servers: ServerUrls) -> Iterator[str]:
    """The URL of a user with all permissions."""
    set_rules(broker, "on", ">pw", "~*", "&*", "+@all")
    yield f"unix://{USER}:pw@{servers.redis_url.partition('@')[2]}?db=0"
    broker.redis.acl_deluser(USER)


def test_usable_broker_is_named_and_unchanged(broker: Broker, servers: ServerUrls) -> None:
    before = broker.dump()
    assert check(servers.redis_url).startswith("valkey 9.")
    assert broker.dump() == before


def test_unavailable_broker_is_reported_as_such() -> None:
    from accession.tasks.broker import BrokerUnavailable

    with pytest.raises(BrokerUnavailable, match=r"^The broker is unavailable \(Error 111 connecting to "):
        check(f"redis://127.0.0.1:{free_port()}/0")


def test_wrong_password_is_reported(restricted_url: str) -> None:
    assert refusal(restricted_url.replace(":pw@", ":other@")) == (
        "The broker rejects the login (invalid username-password pair or user is disabled): correct user and "
        "password in ACCESSION_REDIS_URL."
    )


def test_missing_database_is_reported(restricted_url: str) -> None:
    assert refusal(restricted_url.replace("db=0", "db=9999")) == (
        "The broker refuses a command (DB index is out of range): check the server, and the number of the "
        "database in ACCESSION_REDIS_URL."
    )


@pytest.mark.parametrize("rules", ["-brpop", "-@scripting", "resetkeys ~default", "resetchannels"])
def test_missing_permission_is_reported(restricted_url: str, broker: Broker, rules: str) -> None:
    set_rules(broker, *rules.split())
    message = refusal(restricted_url)
    assert message.startswith("The user in ACCESSION_REDIS_URL has too few permissions (")
    assert message.endswith("): give it those that docs/servers.md lists.")


@pytest.mark.parametrize("rules", ["", "-info"])
def test_broker_that_may_evict_messages_is_refused(restricted_url: str, broker: Broker, rules: str) -> None:
    set_rules(broker, *rules.split())
    broker.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        message = refusal(restricted_url)
    finally:
        broker.redis.config_set("maxmemory-policy", "noeviction")
    assert message == (
        "The broker may delete queued messages when its memory is full, because its maxmemory-policy is "
        "allkeys-lru: set it to noeviction."
    )


def test_policy_that_cannot_be_read_is_mentioned(restricted_url: str, broker: Broker) -> None:
    set_rules(broker, "-info", "-config")
    assert check(restricted_url) == (
        "redis of unknown version; its maxmemory-policy cannot be read, so make sure that it is noeviction"
    )


def test_wait_ends_when_broker_responds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from accession.cli import connect
    from accession.tasks.broker import BrokerUnavailable

    responses = iter(
        [BrokerUnavailable("The broker is away."), BrokerUnavailable("The broker is away."), None]
    )

    def respond() -> str:
        if error := next(responses):
            raise error
        return "valkey"

    monkeypatch.setattr(connect, "require_broker", respond)
    monkeypatch.setattr(connect, "_POLL_SECONDS", 0)
    connect.wait_for_broker()
    assert capsys.readouterr().err == "Waiting. The broker is away.\n"
    assert next(responses, None) is None
