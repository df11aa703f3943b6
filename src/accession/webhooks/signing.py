"""Secrets of webhooks and signatures of requests, as the Standard Webhooks specification 1.0 defines them.

A request has the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime

from pydantic import SecretStr

from accession.core.errors import InvalidInput

_PREFIX = "whsec_"
_SECRET_BYTES = 32
_MIN_SECRET_BYTES, _MAX_SECRET_BYTES = 24, 64


def generate_secret() -> SecretStr:
    """Return a new secret of 32 random bytes, as text."""
    return SecretStr(_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())


def check_secret(secret: SecretStr) -> None:
    """Check a secret that a person has chosen.

    Raises:
        InvalidInput: it does not have the form that the specification demands.
    """
    text = secret.get_secret_value()
    try:
        size = len(base64.b64decode(text.removeprefix(_PREFIX), validate=True))
    except ValueError:
        size = 0
    if not text.startswith(_PREFIX) or not _MIN_SECRET_BYTES <= size <= _MAX_SECRET_BYTES:
        raise InvalidInput(
            f"The secret of the webhook is invalid: enter {_PREFIX} and {_MIN_SECRET_BYTES} to "
            f"{_MAX_SECRET_BYTES} random bytes in Base64, such as `echo {_PREFIX}$(openssl rand -base64 32)` "
            "prints."
        )


def signed_headers(
    keys: Sequence[SecretStr], message_id: str, sent_at: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers of a request, with one signature for each of the secrets."""
    timestamp = str(int(sent_at.timestamp()))
    content = b".".join((message_id.encode(), timestamp.encode(), body))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_sign(key, content) for key in keys),
    }


def _sign(secret: SecretStr, content: bytes) -> str:
    key = base64.b64decode(secret.get_secret_value().removeprefix(_PREFIX))
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
