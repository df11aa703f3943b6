"""Reasons why a login at the OpenID Connect provider fails, in words for the person and for the log.

No code, token or secret is part of them.
"""

from typing import Any

import httpx
from joserfc.errors import ClaimError, MissingClaimError

from accession.core.errors import UserError

_TIME_CLAIMS = ("exp", "iat", "nbf")


class ProviderError(UserError):
    """A login that cannot be completed; the message tells the person why, and what to do."""

    def __init__(self, message: str, reason: str) -> None:
        """Create an error; `reason` is a short phrase for the log."""
        super().__init__(message)
        self.reason = reason


def expired_login() -> ProviderError:
    """Return the error for a response of the provider that belongs to no login of this browser."""
    return ProviderError(
        "The login took longer than 10 minutes, or was started in another window or under another address of "
        "Accession: log in again.",
        "state",
    )


def denied_error(error: str) -> ProviderError:
    """Return the error for a browser that the provider sent back with an error code instead of a code."""
    if error == "access_denied":
        return ProviderError(
            "The login was cancelled, or you may not use Accession at the provider: try again, or ask an "
            "administrator of the provider for access.",
            "access_denied",
        )
    code = error if error.isascii() and error.isidentifier() and len(error) < 50 else "unknown error"
    return ProviderError(
        f"The OpenID Connect provider refused the login ({code}): try again, and tell an administrator if it "
        "happens again.",
        f"provider: {code}",
    )


def signature_error(error: Exception) -> ProviderError:
    """Return the error for an ID token that is malformed, or not signed with a key of the provider."""
    return ProviderError(
        "The login was refused, because the signature of the provider's ID token cannot be verified: try "
        "again, and tell an administrator if it happens again.",
        f"ID token: {type(error).__name__}",
    )


def other_issuer(issuer: str, expected: str) -> ProviderError:
    """Return the error for a discovery document of another issuer than that of the settings."""
    return ProviderError(
        f"The OpenID Connect provider calls itself {issuer}, not {expected}: an administrator has to set "
        "ACCESSION_OIDC_ISSUER to that.",
        "discovery document of another issuer",
    )


def token_error(status: int, error: Any) -> ProviderError:
    """Return the error for a response of the token endpoint with this status and error code."""
    match error:
        case "invalid_client" | "unauthorized_client":
            return ProviderError(
                "The OpenID Connect provider does not accept the client id and secret of Accession: an "
                "administrator has to correct ACCESSION_OIDC_CLIENT_ID and ACCESSION_OIDC_CLIENT_SECRET.",
                error,
            )
        case "invalid_grant":
            return ProviderError(
                "The OpenID Connect provider does not accept the login any more, because it took too long or "
                "was used before: log in again.",
                error,
            )
    return unusable_response(f"status {status} of the token endpoint")


def unreachable(url: str, error: httpx.HTTPError) -> ProviderError:
    """Return the error for a request that got no response."""
    host = httpx.URL(url).host
    return ProviderError(
        f"The OpenID Connect provider at {host} cannot be reached: try again later, or ask an "
        "administrator to log in with a password and check it with `accession doctor`.",
        f"{type(error).__name__} at {host}",
    )


def unusable_response(reason: str) -> ProviderError:
    """Return the error for a response that breaks the protocol; `reason` tells how."""
    return ProviderError(
        f"The OpenID Connect provider sent an unusable response ({reason}): try again later, and tell an "
        "administrator if it happens again.",
        reason,
    )


def claim_error(error: ClaimError) -> ProviderError:
    """Return the error for an ID token with a wrong claim."""
    claim = error.claim
    if claim in _TIME_CLAIMS and not isinstance(error, MissingClaimError):
        return ProviderError(
            "The login was refused, because the clocks of the OpenID Connect provider and of this server "
            "differ by more than a minute, or it took too long: try again, and ask an administrator to check "
            "the time of the server.",
            f"ID token: {claim}",
        )
    return ProviderError(
        f"The login was refused, because the provider's ID token is not for this login ({claim}): log in "
        "again, and tell an administrator if it happens again.",
        f"ID token: {claim}",
    )
