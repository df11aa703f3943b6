"""Apply a configuration, in one transaction."""

from accession.accounts.collections import lock_configuration
from accession.auth.audit import Actor, AuditAction, record
from accession.configuration.loading import Configuration
from accession.configuration.planning import Plan, make_plan
from accession.configuration.references import SecretReader
from accession.core.errors import UserError
from accession.db.engine import transaction


class PlanOutdated(UserError):
    """The installation has changed since a plan was shown."""

    def __init__(self) -> None:
        super().__init__(
            "The installation has changed since the plan was made, so the plan was not applied: "
            "check the new plan."
        )


def apply_configuration(
    actor: Actor,
    configuration: Configuration,
    read_secret: SecretReader,
    *,
    prune: bool = False,
    digest: str | None = None,
) -> Plan:
    """Make the installation equal to a configuration, and return the changes that were made.

    All changes are made, or none. Without a difference nothing is written. Of several calls at the same time
    one waits for the other.

    Args:
        actor: who applies it, for the audit log.
        configuration: contents of the files.
        read_secret: reads the secrets that the files refer to.
        prune: whether what is absent from the files is removed, in the lists that the files have.
        digest: `Plan.digest` of the plan that somebody has agreed to.

    Raises:
        InvalidConfiguration: the files have mistakes; all of them are listed.
        PlanOutdated: the plan is not the one with this digest.
        UserError: a stored secret cannot be decrypted.
    """
    with transaction() as session:
        lock_configuration(session)
        plan = make_plan(session, configuration, read_secret, prune=prune)
        if digest not in (None, plan.digest):
            raise PlanOutdated
        effects = [change.execute(session, actor) for change in plan.changes]
        if plan.changes:
            details = {"files": configuration.files, "changes": len(plan.changes)}
            record(session, actor, AuditAction.CONFIGURATION_APPLY, "", details)
    for effect in effects:
        if effect is not None:
            effect()
    return plan
