"""Record in the audit log that a process starts with other settings than the one before."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, ActorKind, AuditAction, record
from accession.core.effective_settings import default_values, shared_values
from accession.db.models import ProcessSettings


def record_settings(session: Session, process: str) -> None:
    """Compare this process's settings with those of the last start of such a process, and record changes.

    The first start is compared with the default settings. Of secrets it is recorded only whether they are
    set.

    Args:
        session: session with a transaction.
        process: name of the command that runs the process, such as `worker`.
    """
    defaults, settings = default_values(), shared_values()
    new = insert(ProcessSettings).values(process=process, settings=defaults).on_conflict_do_nothing()
    session.execute(new)
    query = select(ProcessSettings).where(ProcessSettings.process == process)
    stored = session.scalars(query.with_for_update().execution_options(populate_existing=True)).one()
    # A setting that the last process did not know had its default.
    before = defaults | stored.settings
    changes = {name: f"{before[name]} → {value}" for name, value in settings.items() if before[name] != value}
    if changes:
        stored.settings = dict(settings)
        actor = Actor(ActorKind.SYSTEM, process, "configuration")
        record(session, actor, AuditAction.SETTINGS_CHANGE, process, changes)
