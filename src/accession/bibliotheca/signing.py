"""HMAC signatures of requests to the vendor (scheme "3MCLAUTH")."""

import base64
import hmac
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
from pydantic import SecretStr

from accession.accounts.account import Account


def compute_signature(account_key: SecretStr, date: str, method: str, path: str) -> str:
    """Return the base64 HMAC-SHA256 of a request.

    Args:
        account_key: the secret that the vendor issued.
        date: value of the 3mcl-Datetime header, in RFC 1123 format.
        method: the HTTP method.
        path: path and query, percent-encoded exactly as sent.
    """
    message = f"{date}\n{method}\n{path}".encode()
    return base64.b64encode(hmac.digest(account_key.get_secret_value().encode(), message, "sha256")).decode()


def sign_request(request: httpx.Request, account: Account, now: datetime) -> None:
    """Add the vendor's version, date and authorization headers to a request, in place."""
    date = format_datetime(now.astimezone(UTC), usegmt=True)
    # httpx may have normalised the URL: sign the path that it sends.
    signature = compute_signature(account.account_key, date, request.method, request.url.raw_path.decode())
    request.headers.update(
        {
            "3mcl-Version": "2.0",
            "3mcl-Datetime": date,
            "3mcl-Authorization": f"3MCLAUTH {account.account_id}:{signature}",
        }
    )
