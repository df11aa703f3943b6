"""Retry the import of rejected records, one or many."""

from collections.abc import Iterable, Mapping
from functools import partial

import structlog
from celery import Task

from accession.bibliotheca.errors import RemoteIntegrationException, TransientVendorError
from accession.catalog.rejected_records import lock_open_rejected_record
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db.engine import late_transaction
from accession.db.models import Collection
from accession.imports.events import BibliothecaEventImporter
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.tasks.app import MAX_RETRIES, app
from accession.tasks.apply import publish_applies
from accession.tasks.outages import retry_while_unavailable

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 60

_IMPORTERS: Mapping[Workflow, type[BibliothecaPurchaseRecordImporter | BibliothecaEventImporter]] = {
    Workflow.PURCHASES: BibliothecaPurchaseRecordImporter,
    Workflow.EVENTS: BibliothecaEventImporter,
}


def retry_rejected(record_id: int) -> bool:
    """Import a rejected record again; return True if it succeeded, which resolves the record.

    A record that is rejected again gets the new reason.

    Raises:
        UserError: there is no such record, or it is resolved.
        RemoteIntegrationException: the vendor's API failed.
    """
    with late_transaction() as session:
        # Before the transaction this does not lock. Meanwhile somebody else may have resolved the record.
        rejected = lock_open_rejected_record(session, record_id)
        session.on_begin = partial(lock_open_rejected_record, session, record_id)
        collection = session.get_one(Collection, rejected.collection_id)
        importer = _IMPORTERS[Workflow(rejected.workflow)](session, collection, vendor_api_for(collection))
        result = importer.retry_rejected(rejected)
    publish_applies(result.outbox_ids)
    return result.is_resolved


def queue_retries(record_ids: Iterable[int]) -> None:
    """Queue the retry of many rejected records, one message for each."""
    for record_id in record_ids:
        retry_rejected_record.delay(record_id)


@app.task(  # type: ignore[untyped-decorator]
    bind=True, ignore_result=True, max_retries=MAX_RETRIES, default_retry_delay=_RETRY_SECONDS
)
def retry_rejected_record(self: Task, record_id: int) -> None:
    """Import a rejected record again, unless it has been resolved meanwhile.

    A transient error of the vendor is retried; after another one the record stays as it is.
    """
    try:
        retry_while_unavailable(lambda _: retry_rejected(record_id))
    except TransientVendorError as error:
        raise self.retry(exc=error) from None
    except (RemoteIntegrationException, UserError) as error:
        log.warning("rejected record not retried", record=record_id, reason=str(error))
