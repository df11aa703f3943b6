"""OPDS authentication document (https://drafts.opds.io/authentication-for-opds-1.0.html).

Reading apps show their form for a name and a password only if a response with status 401 has it.
"""

from pydantic import BaseModel, ConfigDict

AUTHENTICATION_TYPE = "application/opds-authentication+json"
AUTHENTICATION_REL = "http://opds-spec.org/auth/document"
_BASIC = "http://opds-spec.org/auth/basic"
_DESCRIPTION = (
    "Enter any name, and as password a token for OPDS, which an administrator creates with "
    "`accession tokens add NAME --feed opds`."
)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AuthenticationLink(_Model):
    """A link of the document."""

    rel: str
    href: str
    type: str


class Labels(_Model):
    """Labels of the fields of a form."""

    login: str = "Name (any)"
    password: str = "Token"  # noqa: S105 - the label of a field


class AuthenticationFlow(_Model):
    """A way to authenticate."""

    type: str = _BASIC
    labels: Labels = Labels()


class AuthenticationDocument(_Model):
    """The ways to authenticate for the feeds."""

    id: str
    title: str
    description: str
    links: tuple[AuthenticationLink, ...]
    authentication: tuple[AuthenticationFlow, ...] = (AuthenticationFlow(),)


def build_authentication_document(
    url: str, start_url: str, logo_url: str, description: str | None = None
) -> bytes:
    """Return the document as JSON.

    Args:
        url: Address of the document.
        start_url: Address of the root feed.
        logo_url: Address of an SVG image.
        description: What an app shows to the person who has to authenticate.
    """
    document = AuthenticationDocument(
        id=url,
        title="Accession",
        description=description or _DESCRIPTION,
        links=(
            AuthenticationLink(rel="start", href=start_url, type="application/opds+json"),
            AuthenticationLink(rel="logo", href=logo_url, type="image/svg+xml"),
        ),
    )
    return document.model_dump_json().encode()
