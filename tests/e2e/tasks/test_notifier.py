"""The notifier in the processes that run it, each without the other and without workers."""

from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy.orm import Session

from accession.accounts.keys import KEY_FILE
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.local.servers import ServerUrls
from accession.notifications.delivery import notification_views
from accession.notifications.events import record_export
from tests.fixtures.commands import background_command, environment, server_variables
from tests.fixtures.machine import free_port
from tests.fixtures.notifications import PASSWORD_IN_URL, TOKEN_IN_URL, WebhookReceiver, make_channel, webhook
from tests.fixtures.waiting import wait_until

__all__ = ["webhook"]


def is_sent() -> bool:
    with transaction() as session:
        return any(view.state == "sent" for view in notification_views(session, channel="ops"))


@pytest.mark.parametrize("process", ["web", "beat"])
def test_each_process_sends_messages_alone(
    servers: ServerUrls,
    session: Session,
    queues: Redis,
    webhook: WebhookReceiver,
    tmp_path: Path,
    process: str,
) -> None:
    make_channel(session, webhook.url)
    record_export(session, "alder", error="The target is full.")
    session.commit()
    (tmp_path / KEY_FILE).write_bytes((get_settings().home / KEY_FILE).read_bytes())
    env = environment(**server_variables(servers), ACCESSION_HOME=str(tmp_path))
    env["ACCESSION_WEB_PORT"] = str(free_port())
    with background_command("--debug", process, env=env) as running:
        wait_until(is_sent)
        running.terminate()
        log, _ = running.communicate()
    assert webhook.titles == ["Accession: Export failed: alder"]
    assert "notification sent" in log
    for secret in (PASSWORD_IN_URL, TOKEN_IN_URL):
        assert secret not in log
