"""The webhook sender: threads of the scheduler and of the web server that send the events of webhooks.

Both processes do the same, so that either may be missing. The database makes sure that one of them sends the
events of a queue at a time. No worker sends events, so that a slow receiver never delays an import.
"""

import threading
import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from accession.webhooks.delivery import deliver_events, find_due_webhooks

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 2.0
# A receiver that does not respond occupies one.
MAX_THREADS = 8


class WebhookSender:
    """Sends the events of each webhook in a thread of its own, which ends with the process."""

    def __init__(self) -> None:
        self._threads: dict[int, threading.Thread] = {}
        self._started_at: dict[int, float] = {}

    def run_once(self) -> None:
        """Begin to send what is due, unless it is being sent; of too many webhooks, some wait their turn."""
        self._threads = {key: thread for key, thread in self._threads.items() if thread.is_alive()}
        for webhook_id in sorted(find_due_webhooks(), key=lambda key: self._started_at.get(key, 0.0)):
            if webhook_id not in self._threads and len(self._threads) < MAX_THREADS:
                name = f"webhook-{webhook_id}"
                thread = threading.Thread(target=_deliver, name=name, args=(webhook_id,), daemon=True)
                self._threads[webhook_id] = thread
                self._started_at[webhook_id] = time.monotonic()
                thread.start()


def _deliver(webhook_id: int) -> None:
    try:
        deliver_events(webhook_id)
    except SQLAlchemyError as error:
        # The statement is left out: its parameters are data.
        log.warning("webhook sender waits for the database", reason=type(error).__name__)
    except Exception:
        log.exception("webhook sender failed", webhook=webhook_id)


def start_webhook_sender() -> None:
    """Start the sender in a thread that ends with the process."""
    threading.Thread(target=_run, name="webhook-sender", daemon=True).start()


def _run() -> None:
    sender, pause = WebhookSender(), threading.Event()
    while True:
        try:
            sender.run_once()
        except SQLAlchemyError as error:
            log.warning("webhook sender waits for the database", reason=type(error).__name__)
        except Exception:
            log.exception("webhook sender failed")
        pause.wait(INTERVAL_SECONDS)
