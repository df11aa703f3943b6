"""Rejected records that are given another try."""

from collections.abc import Mapping

from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, RejectedRecord
from accession.imports.events import BibliothecaEventImporter
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor import api_for
from accession.tasks.apply import publish_applies

_IMPORTERS: Mapping[Workflow, type[BibliothecaPurchaseRecordImporter | BibliothecaEventImporter]] = {
    Workflow.PURCHASES: BibliothecaPurchaseRecordImporter,
    Workflow.EVENTS: BibliothecaEventImporter,
}


def retry_rejected(record_id: int) -> bool:
    """Run a rejected record through the import again; whether it has passed, and is resolved. One that has
    not has the reason of now.

    Raises `UserError` when there is no such record or it is resolved, and what the vendor's API raises.
    """
    with transaction() as session:
        rejected = session.get(RejectedRecord, record_id, with_for_update=True)
        if rejected is None or rejected.resolved_at is not None:
            raise UserError(
                f"There is no unresolved rejected record {record_id}: see `accession rejects list`."
            )
        collection = session.get_one(Collection, rejected.collection_id)
        importer = _IMPORTERS[Workflow(rejected.workflow)](session, collection, api_for(collection))
        outbox_ids = importer.retry_rejected(rejected)
    if outbox_ids is None:
        return False
    publish_applies(outbox_ids)
    return True
