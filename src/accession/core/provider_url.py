"""URLs of an OpenID Connect provider."""

from urllib.parse import urlsplit

from accession.core.loopback import is_loopback


def is_provider_url(url: str) -> bool:
    """Return whether secrets may be sent to the URL: it is https, or http on a loopback address."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host or ""))
    is_plain = url.isascii() and url.isprintable() and " " not in url
    return is_plain and bool(host) and is_safe and "@" not in parts.netloc and not parts.fragment
