"""End a process of a worker: wait for its threads, and store what they have counted."""

from celery.signals import worker_process_shutdown

from accession.imports.prefetch import wait_for_prefetches
from accession.tasks.metrics import store_counted_requests
from accession.tasks.prefetch_cache import PATIENCE_SECONDS
from accession.tasks.run_details import store_recorded_details


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _finish_threads(**_: object) -> None:
    # The next steps of the runs would wait for the responses. Each thread counts its request as it ends.
    wait_for_prefetches(PATIENCE_SECONDS)
    store_counted_requests()
    store_recorded_details()
