"""Store what has failed or succeeded, in the transaction that ends it, for the rules to be applied later."""

from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection
from accession.bibliotheca.errors import AuthenticationFailed, RemoteIntegrationException
from accession.core.clock import utc_now
from accession.core.errors import NotFound
from accession.db.models import Collection, NotificationEvent, Run
from accession.notifications.kinds import EventKind


def run_key(collection_id: int | None, workflow: str | None) -> str:
    """Return the key of the runs of a collection's workflow."""
    return f"run:{collection_id}:{workflow}"


def record_run_failure(session: Session, run: Run, reason: str, error: BaseException) -> None:
    """Store that a run has failed because of an error; `reason` is the text that is shown for it."""
    try:
        collection = get_collection(session, run.collection_id)
    except NotFound:
        # It is marked for deletion.
        return
    is_rejected = isinstance(error, AuthenticationFailed)
    session.add(
        NotificationEvent(
            kind=(EventKind.CREDENTIALS_REJECTED if is_rejected else EventKind.RUN_FAILED).value,
            key=run_key(collection.id, run.workflow),
            collection_id=collection.id,
            workflow=run.workflow,
            run_id=run.id,
            subject=f"{collection.name}, {run.workflow}",
            reason=reason,
            cause=f"{error.problem}." if isinstance(error, RemoteIntegrationException) else reason,
            occurred_at=utc_now(),
        )
    )


def record_export(session: Session, name: str, *, error: str | None = None) -> None:
    """Store that a scheduled export has failed with this error, or has succeeded."""
    session.add(
        NotificationEvent(
            kind=(EventKind.RECOVERED if error is None else EventKind.EXPORT_FAILED).value,
            key=f"export:{name}",
            subject=name,
            reason=error or "",
            cause=error or "",
            occurred_at=utc_now(),
        )
    )


def record_webhook(
    session: Session, webhook_id: int, name: str, *, paused_because: str | None = None
) -> None:
    """Store that Accession has paused a webhook for this reason, or that it has been resumed."""
    kind = EventKind.RECOVERED if paused_because is None else EventKind.WEBHOOK_PAUSED
    reason = paused_because or ""
    session.add(
        NotificationEvent(
            kind=kind.value,
            key=f"webhook:{webhook_id}",
            subject=name,
            reason=reason,
            cause=reason,
            occurred_at=utc_now(),
        )
    )


def record_digest_mail(
    session: Session, collection: Collection, recipient: str, *, error: str | None = None
) -> None:
    """Store that a digest has not reached a recipient because of this error, or that there is no error."""
    session.add(
        NotificationEvent(
            kind=(EventKind.RECOVERED if error is None else EventKind.DIGEST_FAILED).value,
            key=f"digest:{collection.id}:{recipient}",
            collection_id=collection.id,
            subject=f"{collection.name}, {recipient}",
            reason=error or "",
            cause=error or "",
            occurred_at=utc_now(),
        )
    )
