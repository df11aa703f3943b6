"""OpenID Connect: authorisation code flow with PKCE, and verification of ID tokens.

The provider's documents are fetched on use and cached. Nothing here is stored, and no code, token or secret
is part of an error.
"""

import hashlib
import json
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote_plus, urlencode

import httpx
from joserfc import jwt
from joserfc.errors import ClaimError, JoseError
from joserfc.jwk import JWKRegistry, KeySet
from pydantic import AfterValidator, BaseModel, SecretStr, ValidationError

from accession.auth.oidc_errors import (
    claim_error,
    other_issuer,
    signature_error,
    token_error,
    unreachable,
    unusable_response,
)
from accession.core.outgoing_http import CheckedTransport, is_allowed_for_operators, limited_body
from accession.core.provider_url import is_provider_url
from accession.core.settings import get_settings

_TIMEOUT = httpx.Timeout(10, connect=5)
_LIFETIME_SECONDS = 20.0
_MAX_BODY_BYTES = 1024 * 1024
# A compressed response could be much larger than what is received. The lifetime is that of a connection, so
# each request has its own.
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close"}
_CACHED_SECONDS = 60 * 60
_CLOCK_SKEW_SECONDS = 60
# Only signatures with a public key: for others, whoever knows the client secret could sign.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519"]
# The last two rise from malformed tokens, such as one with `"crit": null` in its header.
_TOKEN_ERRORS = (JoseError, ValueError, TypeError)
_NAME_CLAIMS = ("preferred_username", "email", "name", "sub")
_MAX_SUBJECT_LENGTH = 255


@dataclass(frozen=True)
class LoginRequest:
    """A login in progress: what the browser keeps until the provider sends it back to `redirect_uri`.

    `state` ties the response to the browser, `nonce` the ID token to the request, and `code_verifier` the
    code to the program that requested it (PKCE).
    """

    state: str
    nonce: str
    code_verifier: str
    redirect_uri: str

    @classmethod
    def new(cls, redirect_uri: str) -> "LoginRequest":
        """Return a request with new random values."""
        state, nonce, code_verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, code_verifier, redirect_uri)


@dataclass(frozen=True)
class ProviderIdentity:
    """A person, as a verified ID token describes them.

    `issuer` and `subject` together never belong to another person. `name` may change, and is not unique. The
    provider recognises the person by `id_token` at the logout.
    """

    issuer: str
    subject: str
    name: str
    groups: tuple[str, ...]
    id_token: str = field(repr=False)


def _validate_endpoint(url: str) -> str:
    if not is_provider_url(url):
        raise ValueError("it is not an https URL")
    return url


_Endpoint = Annotated[str, AfterValidator(_validate_endpoint)]


class _Metadata(BaseModel):
    """The discovery document, as far as it is used."""

    issuer: str
    authorization_endpoint: _Endpoint
    token_endpoint: _Endpoint
    jwks_uri: _Endpoint
    end_session_endpoint: _Endpoint | None = None
    token_endpoint_auth_methods_supported: list[str] = ["client_secret_basic"]


class Provider:
    """The OpenID Connect provider of the settings, and this installation's registration there.

    All methods may raise `ProviderError`.
    """

    def __init__(
        self, issuer: str, client_id: str, client_secret: SecretStr | None, scopes: str, roles_claim: str
    ) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._scopes = scopes
        self._roles_claim = roles_claim
        transport = CheckedTransport(is_allowed_for_operators, lifetime_seconds=_LIFETIME_SECONDS)
        self._client = httpx.Client(transport=transport, timeout=_TIMEOUT, headers=_HEADERS)
        self._metadata: tuple[_Metadata, float] | None = None
        self._keys: tuple[KeySet, float] | None = None

    def check(self) -> None:
        """Fetch the provider's configuration and keys."""
        self._get_keys()

    def authorization_url(self, login: LoginRequest) -> str:
        """Return the address at the provider to which the browser goes to log in."""
        digest = hashlib.sha256(login.code_verifier.encode()).digest()
        parameters = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": login.redirect_uri,
            "scope": self._scopes,
            "state": login.state,
            "nonce": login.nonce,
            "code_challenge": urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return _add_parameters(self._get_metadata().authorization_endpoint, parameters)

    def logout_url(self, return_url: str, id_token: str | None) -> str | None:
        """Return the address at which the browser logs out of the provider; None if it has none.

        Without the ID token of the login, the provider asks before it logs out, and may not return.
        """
        endpoint = self._get_metadata().end_session_endpoint
        if endpoint is None:
            return None
        parameters = {"client_id": self._client_id, "post_logout_redirect_uri": return_url}
        if id_token is not None:
            parameters["id_token_hint"] = id_token
        return _add_parameters(endpoint, parameters)

    def fetch_identity(self, login: LoginRequest, code: str) -> ProviderIdentity:
        """Exchange the code that the browser brought for an ID token, and return whom it describes."""
        id_token = self._fetch_id_token(login, code)
        claims = self._verify(id_token, login.nonce)
        subject: str = claims["sub"]
        if not subject.isprintable() or len(subject) > _MAX_SUBJECT_LENGTH:
            raise unusable_response("ID token: sub")
        return ProviderIdentity(
            self._issuer,
            subject,
            next(name for claim in _NAME_CLAIMS if (name := claims.get(claim)) and isinstance(name, str)),
            _find_groups(claims, self._roles_claim),
            id_token,
        )

    def _fetch_id_token(self, login: LoginRequest, code: str) -> str:
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": login.redirect_uri,
            "code_verifier": login.code_verifier,
        }
        metadata = self._get_metadata()
        auth: httpx.BasicAuth | None = None
        if self._client_secret is None:
            fields["client_id"] = self._client_id
        elif "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            # RFC 6749, section 2.3.1
            secret = quote_plus(self._client_secret.get_secret_value())
            auth = httpx.BasicAuth(quote_plus(self._client_id), secret)
        else:
            fields["client_id"] = self._client_id
            fields["client_secret"] = self._client_secret.get_secret_value()
        status, document = self._request("POST", metadata.token_endpoint, data=fields, auth=auth)
        if status != httpx.codes.OK:
            raise token_error(status, document.get("error"))
        id_token = document.get("id_token")
        if not isinstance(id_token, str):
            raise unusable_response("response without an ID token")
        return id_token

    def _verify(self, id_token: str, nonce: str) -> dict[str, Any]:
        """Return the claims of the ID token once signature, issuer, audience, times and nonce are checked."""
        claims = self._decode(id_token)
        registry = jwt.JWTClaimsRegistry(
            leeway=_CLOCK_SKEW_SECONDS,
            iss={"essential": True, "value": self._issuer},
            sub={"essential": True},
            aud={"essential": True, "value": self._client_id},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
            azp={"value": self._client_id},
        )
        try:
            registry.validate(claims)
        except ClaimError as error:
            raise claim_error(error) from None
        return claims

    def _decode(self, id_token: str) -> dict[str, Any]:
        try:
            with suppress(*_TOKEN_ERRORS):
                return jwt.decode(id_token, self._get_keys(), _ALGORITHMS).claims
            # The provider may have new keys since.
            self._keys = None
            return jwt.decode(id_token, self._get_keys(), _ALGORITHMS).claims
        except _TOKEN_ERRORS as error:
            raise signature_error(error) from None

    def _get_metadata(self) -> _Metadata:
        # A local variable, because other threads may replace the attribute.
        cached = self._metadata
        if cached is None or cached[1] < time.monotonic():
            cached = self._metadata = self._fetch_metadata(), time.monotonic() + _CACHED_SECONDS
        return cached[0]

    def _fetch_metadata(self) -> _Metadata:
        document = self._get_document(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            metadata = _Metadata.model_validate(document)
        except ValidationError as error:
            raise unusable_response(f"discovery document: {error.errors()[0]['loc'][0]}") from None
        if metadata.issuer != self._issuer:
            raise other_issuer(metadata.issuer, self._issuer)
        return metadata

    def _get_keys(self) -> KeySet:
        cached = self._keys
        if cached is None or cached[1] < time.monotonic():
            document = self._get_document(self._get_metadata().jwks_uri)
            cached = self._keys = _read_keys(document), time.monotonic() + _CACHED_SECONDS
        return cached[0]

    def _get_document(self, url: str) -> Mapping[str, Any]:
        status, document = self._request("GET", url)
        if status != httpx.codes.OK:
            raise unusable_response(f"status {status} of {url}")
        return document

    def _request(self, method: str, url: str, **options: Any) -> tuple[int, Mapping[str, Any]]:
        """Send a request, and return status and JSON object of the response; {} if it is no JSON object."""
        try:
            with self._client.stream(method, url, **options) as response:
                document = json.loads(b"".join(limited_body(response, _MAX_BODY_BYTES)))
        except httpx.HTTPError as error:
            raise unreachable(url, error) from None
        except ValueError:
            document = {}
        return response.status_code, document if isinstance(document, dict) else {}


def get_provider() -> Provider | None:
    """Return the provider of the settings; None if people log in with passwords only."""
    settings = get_settings()
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    return _cached_provider(
        settings.oidc_issuer,
        settings.oidc_client_id,
        settings.oidc_client_secret,
        settings.oidc_scopes,
        settings.oidc_roles_claim,
    )


_cached_provider = lru_cache(maxsize=1)(Provider)


def _read_keys(document: Mapping[str, Any]) -> KeySet:
    """Return the usable keys of the set; others, such as those of unknown types, are left out."""
    keys = document.get("keys")
    usable = list(_usable_keys(keys if isinstance(keys, list) else []))
    if not usable:
        raise unusable_response("no usable key")
    return KeySet(usable)


def _usable_keys(keys: list[Any]) -> Iterator[Any]:
    for key in keys:
        with suppress(JoseError, ValueError, KeyError, TypeError):
            yield JWKRegistry.import_key(key)


def _find_groups(claims: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """Return the texts of a claim, which is named in full or by a path of names with dots between them."""
    if path == "email" and claims.get("email_verified") is not True:
        # Anyone can enter any address.
        return ()
    value: Any = claims
    for name in [path] if path in claims else path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    values = value if isinstance(value, list) else [value]
    return tuple(group for group in values if isinstance(group, str))


def _add_parameters(endpoint: str, parameters: Mapping[str, str]) -> str:
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(parameters)}"
