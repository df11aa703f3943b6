"""Account of the simulated vendor, and verification of signed requests."""

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from starlette.requests import Request

SANDBOX_ACCOUNT_KEY = "sandbox-key-that-is-no-secret"
"""Account key of the default account. It is public: it only opens a sandbox."""

_CLOCK_TOLERANCE = timedelta(minutes=5)
_SCHEME = "3MCLAUTH"


@dataclass(frozen=True)
class SandboxAccount:
    """Account that may access the sandbox, and its library."""

    library_id: str = "sandbox"
    account_id: str = "library.sandbox"
    account_key: str = field(default=SANDBOX_ACCOUNT_KEY, repr=False)


def compute_signature(account_key: str, date: str, method: str, target: str) -> str:
    """Return the expected signature of a request; `date` and `target` (path and query) as sent."""
    signed = f"{date}\n{method.upper()}\n{target}".encode()
    digest = hmac.new(account_key.encode(), signed, hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def is_signed(request: Request, account: SandboxAccount, now: datetime) -> bool:
    """Return whether the account signed the request within five minutes of `now` (UTC)."""
    sent_at = request.headers.get("3mcl-Datetime", "")
    try:
        # RFC 1123 with a literal GMT, which the standard library parses as a naive datetime.
        moment = parsedate_to_datetime(sent_at).replace(tzinfo=UTC)
    except ValueError:
        return False
    expected = compute_signature(account.account_key, sent_at, request.method, request_target(request))
    authorization = f"{_SCHEME} {account.account_id}:{expected}"
    received = request.headers.get("3mcl-Authorization", "")
    is_recent = abs(now - moment) <= _CLOCK_TOLERANCE
    return is_recent and hmac.compare_digest(received.encode(), authorization.encode())


def request_target(request: Request) -> str:
    """Return path and query exactly as received, which is what the client signed."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")
