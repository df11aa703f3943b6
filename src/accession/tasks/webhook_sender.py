"""The webhook sender: threads of the scheduler and of the web server that send the events of webhooks.

Both processes do the same, so that either may be missing. The database makes sure that one of them sends the
events of a queue at a time. No worker sends events, so that a slow receiver never delays an import.
"""

import threading
import time
from functools import partial

from accession.tasks.background import log_errors, run_in_background
from accession.webhooks.delivery import deliver_events, find_due_webhooks

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
                deliver = partial(deliver_events, webhook_id)
                thread = threading.Thread(target=log_errors, name=name, args=(name, deliver), daemon=True)
                self._threads[webhook_id] = thread
                self._started_at[webhook_id] = time.monotonic()
                thread.start()


def start_webhook_sender() -> None:
    """Start the sender in a thread that ends with the process."""
    run_in_background("webhook-sender", WebhookSender().run_once, INTERVAL_SECONDS)
