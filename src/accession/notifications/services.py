"""Apprise: check the URL of a channel, and send a message to it.

Nothing that Apprise or its libraries say about a message is logged or stored, because it may contain the URL:
what goes wrong is described in own words.
"""

import logging
import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from pydantic import SecretStr

from accession.core.errors import InvalidInput
from accession.notifications.messages import Message

if TYPE_CHECKING:
    import apprise

_SEND_SECONDS = 20
_SOCKET_SECONDS = 10.0
_MAX_URL_LENGTH = 2000

_TOO_LATE = "its server does not respond in time"
# What the messages of Apprise and its libraries have in common, and what it means.
_REASONS = (
    (r"NameResolutionError|gaierror|Name or service not known|Temporary failure in name resolution",
     "its host name does not exist"),
    (r"Connection refused", "its server refuses the connection"),
    (r"SSLError|SSLCertVerificationError|certificate verify failed", "its TLS certificate is not valid"),
    (r"SMTPAuthenticationError", "the mail server rejects the user name or the password"),
    (r"SMTPRecipientsRefused", "the mail server rejects the recipients"),
    (r"SMTPSenderRefused", "the mail server rejects the sender"),
    (r"SMTPNotSupportedError", "the mail server does not support what the URL requires, such as TLS"),
    (r"SMTP\w+", "the mail server rejects the message"),
    (r"timed out|Timeout", _TOO_LATE),
)  # fmt: skip
_STATUS = re.compile(
    r"\berror\s?[=:]\s?([1-5]\d\d)\b|\bstatus(?: code)?\s?[=:]?\s?([1-5]\d\d)\b", re.IGNORECASE
)


@cache
def _apprise() -> "apprise.AppriseAsset":
    """Return the settings of Apprise, which is loaded on first use: that takes half a second."""
    import apprise

    # It logs URLs. The messages of a delivery are read from its result.
    logger = logging.getLogger(apprise.LOGGER_NAME)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(logging.NullHandler())
    # Parameters of a URL can name files and other URLs to read, such as templates.
    apprise.AttachmentManager().remove("file", "http", "https")  # type: ignore[no-untyped-call]
    return apprise.AppriseAsset(
        app_id="Accession", app_desc="Accession", storage_mode="memory", http_redirects=False
    )


def check_url(url: SecretStr) -> str:
    """Return the name of the service that the URL leads to, such as "Slack".

    Raises:
        InvalidInput: it is no URL that Apprise supports. The message does not contain it.
    """
    return str(_load(url).service_name)


def _load(url: SecretStr) -> "apprise.NotifyBase":
    asset = _apprise()
    import apprise

    text = url.get_secret_value().strip()
    is_possible = 0 < len(text) <= _MAX_URL_LENGTH and text.isprintable()
    plugin = apprise.Apprise.instantiate(text, asset=asset) if is_possible else None
    if plugin is None or plugin.category != "native":
        raise InvalidInput(
            "The URL is not one that Apprise supports: enter it in the form that "
            "https://appriseit.com/services/ describes for your service, without names of files."
        )
    plugin.redirects = False
    plugin.socket_connect_timeout = min(plugin.socket_connect_timeout or _SOCKET_SECONDS, _SOCKET_SECONDS)
    plugin.socket_read_timeout = min(plugin.socket_read_timeout or _SOCKET_SECONDS, _SOCKET_SECONDS)
    return plugin


def send(url: SecretStr, message: Message) -> str | None:
    """Send a message; return why that failed, or None.

    It takes at most 20 seconds. The reason contains nothing of the URL.
    """
    try:
        plugin = _load(url)
    except InvalidInput as error:
        return str(error)
    import apprise

    sender = apprise.Apprise(asset=_apprise())
    sender.add(plugin)
    result = sender.notify(
        title=message.title,
        body=message.body,
        notify_type=message.type,
        body_format=apprise.NotifyFormat.TEXT,
        timeout=_SEND_SECONDS,
        log_level=logging.DEBUG,
    )
    if result:
        return None
    is_late = result.status == apprise.AppriseResultStatus.TIMEOUT
    reason = _TOO_LATE if is_late else _describe(entry.message for entry in result.logs())
    return (
        f"The message could not be sent to {plugin.service_name}, because {reason}: "
        "check the URL of the channel and the service."
    )


def _describe(log_messages: Iterable[str]) -> str:
    text = "\n".join(log_messages)
    for pattern, reason in _REASONS:
        if re.search(pattern, text):
            return reason
    if (status := _STATUS.search(text)) is not None:
        return f"it responded with status {status[1] or status[2]}"
    return "it did not accept the message"
