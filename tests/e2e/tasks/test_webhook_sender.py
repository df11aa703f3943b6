"""The webhook sender in the processes that run it, each without the other and without workers."""

from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy.orm import Session

from accession.accounts.keys import KEY_FILE
from accession.auth.audit import Actor, ActorKind
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from accession.webhooks.registry import WebhookSpec, add_webhook, webhook_views
from tests.fixtures.commands import background_command, environment, server_variables
from tests.fixtures.factories import store_title
from tests.fixtures.machine import free_port
from tests.fixtures.waiting import wait_until
from tests.fixtures.webhooks import Receiver, receiver

__all__ = ["receiver"]

TOKEN = "token-in-url"


def is_delivered() -> bool:
    with transaction() as session:
        return webhook_views(session)[0].pending == 0


@pytest.mark.parametrize("process", ["web", "beat"])
def test_each_process_sends_events_alone(
    servers: ServerUrls,
    session: Session,
    collection: Collection,
    queues: Redis,
    receiver: Receiver,
    tmp_path: Path,
    process: str,
) -> None:
    ann = Actor(ActorKind.USER, "ann", "127.0.0.1")
    _, secret = add_webhook(session, ann, WebhookSpec("index", f"{receiver.url}?token={TOKEN}"))
    session.commit()
    store_title(session, collection, "solaris")
    (tmp_path / KEY_FILE).write_bytes((get_settings().home / KEY_FILE).read_bytes())
    env = environment(**server_variables(servers), ACCESSION_HOME=str(tmp_path))
    env["ACCESSION_WEB_PORT"] = str(free_port())
    with background_command("--debug", process, env=env) as running:
        wait_until(is_delivered)
        running.terminate()
        log, _ = running.communicate()
    assert receiver.titles == ["solaris"]
    assert "webhook event delivered" in log
    for text in (TOKEN, secret.get_secret_value(), "Title solaris"):
        assert text not in log
