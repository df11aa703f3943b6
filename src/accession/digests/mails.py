"""Mails with an issue, as RFC 5322 defines them."""

from datetime import UTC, datetime
from email.headerregistry import Address, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import format_datetime

from accession.digests.content import DigestContent
from accession.digests.render import render_issue, settings_url


class _ListHeader(UnstructuredHeader):
    """Header with a URL or an id (RFC 2369, RFC 2919), which must not be encoded, however long it is."""

    def fold(self, *, policy: EmailPolicy) -> str:
        """Return the header on one line."""
        name: str = self.name  # type: ignore[attr-defined] # the registry adds the base class
        return f"{name}: {self}{policy.linesep}"


_headers = HeaderRegistry()
for _name in ("list-id", "list-unsubscribe"):
    _headers.map_to_type(_name, _ListHeader)  # type: ignore[arg-type]
_POLICY = SMTP.clone(header_factory=_headers)


def build_mail(
    content: DigestContent, *, sender: str, recipient: str, message_id: str, created_at: datetime
) -> bytes:
    """Return the mail to one recipient; `message_id` is the part before the @, the same in all tries."""
    rendered = render_issue(content)
    domain = sender.rpartition("@")[2]
    mail = EmailMessage(_POLICY)
    mail["From"] = Address("Accession", addr_spec=sender)
    mail["To"] = Address(addr_spec=recipient)
    mail["Subject"] = rendered.subject
    mail["Date"] = format_datetime(created_at.astimezone(UTC))
    mail["Message-ID"] = f"<{message_id}@{domain}>"
    mail["List-Id"] = f"<digest-{content.collection_id}.accession.{domain}>"
    if (url := settings_url(content.collection_id)) is not None:
        mail["List-Unsubscribe"] = f"<{url}>"
    # No out-of-office reply is sent to it (RFC 3834, and the same for Exchange).
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "All"
    mail.set_content(rendered.text, cte="quoted-printable")
    mail.add_alternative(rendered.html, subtype="html", cte="quoted-printable")
    return mail.as_bytes()
