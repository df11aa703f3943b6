"""A connection to the mail server, which sends any number of mails one after the other.

No message of an error contains the password. What the server says is quoted.
"""

import smtplib
import ssl
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from accession.core.sanitize import sanitize
from accession.core.smtp_url import SmtpServer

# A worker waits as long as this for each response, so it must be short.
_TIMEOUT_SECONDS = 10.0
_MAX_REPLY_LENGTH = 200
_PERMANENT = 500


class MailError(Exception):
    """A mail could not be sent; the text says why, and what to do."""


class ServerUnavailable(MailError):
    """No mail can be sent at present."""


class MailRejected(MailError):
    """The server rejects this mail or its recipient."""

    def __init__(self, message: str, *, is_permanent: bool) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent


class MailUnconfirmed(MailError):
    """The server has received the mail, or a part of it, and has not confirmed it."""


class MailConnection:
    """Context manager with a connection to a mail server.

    Raises:
        ServerUnavailable: on entry, the server cannot be reached or refuses the login.
    """

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self._client: smtplib.SMTP

    def __enter__(self) -> Self:
        """Connect, encrypt and log in."""
        server = self._server
        try:
            self._client = self._connect()
            if not server.is_tls and not server.is_local:
                self._encrypt()
            if server.user is not None:
                self._client.login(server.user, server.password.get_secret_value())
        except smtplib.SMTPAuthenticationError as error:
            self._close()
            raise ServerUnavailable(
                f"The mail server {server.host} rejects the user name or the password "
                f"({_quote(error.smtp_code, error.smtp_error)}): correct ACCESSION_SMTP_URL."
            ) from None
        except (OSError, smtplib.SMTPException) as error:
            self._close()
            raise ServerUnavailable(
                f"The mail server {server.host}:{server.port} cannot be used ({_describe(error)}): check it, "
                "and ACCESSION_SMTP_URL."
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _connect(self) -> smtplib.SMTP:
        server = self._server
        if server.is_tls:
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(server.host, server.port, timeout=_TIMEOUT_SECONDS, context=context)
        return smtplib.SMTP(server.host, server.port, timeout=_TIMEOUT_SECONDS)

    def _encrypt(self) -> None:
        self._client.ehlo_or_helo_if_needed()
        if self._client.has_extn("starttls"):
            self._client.starttls(context=ssl.create_default_context())
        elif self._server.user is not None:
            raise smtplib.SMTPNotSupportedError("it offers no encryption, so the password is not sent")

    def _close(self) -> None:
        client: smtplib.SMTP | None = getattr(self, "_client", None)
        if client is not None:
            with suppress(OSError, smtplib.SMTPException):
                client.quit()
            client.close()

    def send(self, sender: str, recipient: str, mail: bytes, before_data: Callable[[], bool]) -> bool:
        """Send a mail; return whether that was done.

        `before_data` is called when the server has accepted the recipient. If it returns False, the mail is
        not sent.

        Raises:
            MailRejected: the server rejects the mail.
            MailUnconfirmed: the connection ended after `before_data`.
            ServerUnavailable: the connection ended before.
        """
        has_begun = False
        try:
            self._client.ehlo_or_helo_if_needed()
            self._require_accepted(*self._client.mail(sender), f"the sender {sender}")
            self._require_accepted(*self._client.rcpt(recipient), "the recipient")
            if not before_data():
                self._client.rset()
                return False
            has_begun = True
            self._require_accepted(*self._client.data(mail), "the mail")
        except smtplib.SMTPDataError as error:
            self._require_accepted(error.smtp_code, error.smtp_error, "the mail")
        except (OSError, smtplib.SMTPException) as error:
            server, reason = self._server.host, _describe(error)
            if has_begun:
                raise MailUnconfirmed(
                    f"The mail server {server} has not confirmed the mail ({reason}), and may have delivered "
                    "it: ask the recipient, and send it again if it is missing."
                ) from None
            raise ServerUnavailable(
                f"The mail server {server} has ended the connection ({reason}): check its log."
            ) from None
        return True

    def _require_accepted(self, code: int, reply: bytes | str, subject: str) -> None:
        """Raise `MailRejected` if the reply is a refusal, and make the connection usable again."""
        if 200 <= code < 300:
            return
        with suppress(OSError, smtplib.SMTPException):
            self._client.rset()
        raise MailRejected(
            f"The mail server {self._server.host} rejects {subject} ({_quote(code, reply)}): "
            "check the address, and the server's log.",
            # A rejected sender is a setting that can be corrected.
            is_permanent=code >= _PERMANENT and not subject.startswith("the sender"),
        )


def _quote(code: int, reply: bytes | str) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    return sanitize(f"{code} {text}")[:_MAX_REPLY_LENGTH]


def _describe(error: OSError | smtplib.SMTPException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not respond in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {sanitize(error.verify_message)}"
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return "it has closed the connection"
    if isinstance(error, smtplib.SMTPResponseException):
        return _quote(error.smtp_code, error.smtp_error)
    if isinstance(error, OSError) and error.strerror:
        return sanitize(error.strerror).lower()
    return sanitize(str(error))[:_MAX_REPLY_LENGTH] or type(error).__name__
