"""The public URL of the installation, as people outside reach it."""

from accession.core.settings import get_settings


def public_url(path: str = "") -> str | None:
    """Return the public URL of a path of the dashboard, None if ACCESSION_PUBLIC_URL is not set."""
    base = get_settings().public_url
    return None if base is None else base.rstrip("/") + path
