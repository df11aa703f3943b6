"""Retry the import of rejected records."""

from collections.abc import Mapping
from functools import partial

from accession.catalog.rejected_records import lock_open_rejected_record
from accession.core.workflow import Workflow
from accession.db.engine import late_transaction
from accession.db.models import Collection
from accession.imports.events import BibliothecaEventImporter
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.tasks.apply import publish_applies

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
