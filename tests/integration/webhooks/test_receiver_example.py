"""The receiver in docs/how-to/webhooks.md, as a program of its own."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.db.models import Collection
from accession.webhooks.delivery import deliver_events
from accession.webhooks.log import replay_delivery
from accession.webhooks.registry import WebhookSpec, add_webhook, rotate_secret, webhook_views
from accession.webhooks.signing import generate_secret, signed_headers
from tests.fixtures.factories import store_title
from tests.fixtures.machine import free_port
from tests.fixtures.waiting import wait_until
from tests.fixtures.webhooks import ACTOR

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "webhooks.md"


@contextmanager
def running_example(secret: SecretStr, port: str) -> Iterator[subprocess.Popen[str]]:
    """Run the example, until it accepts connections."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    environment = {"WEBHOOK_SECRET": secret.get_secret_value(), "PORT": port}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: is_listening(port), "the receiver accepts connections")
        yield process
        process.kill()


def is_listening(port: str) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}")
    except httpx.HTTPError:
        return False
    return True


def test_example_prints_each_authentic_event_once(session: Session, collection: Collection) -> None:
    port = free_port()
    webhook, old = add_webhook(session, ACTOR, WebhookSpec("index", f"http://127.0.0.1:{port}/"))
    rotate_secret(session, ACTOR, webhook)
    session.commit()
    with running_example(old, port) as process:
        for name in ("solaris", "eden"):
            store_title(session, collection, name)
        assert deliver_events(webhook.id) == 2
        replay_delivery(session, ACTOR, 1)
        session.commit()
        assert deliver_events(webhook.id) == 1
        forged = signed_headers([generate_secret()], "id", utc_now(), b"{}")
        assert httpx.post(webhook.url, content=b"{}", headers=forged).status_code == 401
        process.kill()
        output, _ = process.communicate()
    assert output.splitlines() == ["title.added solaris", "title.added eden"]
    assert webhook_views(session)[0].pending == 0
