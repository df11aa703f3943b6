"""The task that makes the issues of digests that are due, and mails them."""

from accession.digests.delivery import deliver_due_mails
from accession.digests.issues import make_due_issues
from accession.tasks.app import app

# The worker process has imports to do, too. The task of a minute later continues.
_SECONDS = 30.0


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def send_digests() -> int:
    """Make all issues that are due, and send mails for half a minute at most; return how many were sent."""
    make_due_issues()
    return deliver_due_mails(seconds=_SECONDS)
