"""Templates with placeholders, filled in for each title: URLs, and texts of local MARC fields."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from accession.catalog.change_feed import FeedTitle
from accession.core.settings import get_settings

PLACEHOLDERS = ("identifier", "isbn", "format", "collection", "library_id", "owned", "available")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


def check_placeholders(text: str) -> str:
    """Return the text if all its placeholders, such as `{identifier}`, exist.

    Raises:
        ValueError: a placeholder does not exist.
    """
    for name in _PLACEHOLDER.findall(text):
        if name not in PLACEHOLDERS:
            raise ValueError(f"unknown placeholder {{{name}}}; choose from {', '.join(PLACEHOLDERS)}")
    return text


def check_url_template(template: str) -> str:
    """Return the template if it gives a web address for every title.

    Raises:
        ValueError: it is not a web address, lacks `{identifier}`, or has an unknown placeholder.
    """
    if not re.match(r"https?://[^/\s]", template) or re.search(r"\s", template):
        raise ValueError("it must be a web address such as https://host/path-{identifier}")
    if "{identifier}" not in template:
        raise ValueError("it must contain {identifier}")
    return check_placeholders(template)


def fill_vendor_url(template: str, library_id: str, identifier: str) -> str:
    """Return the URL of the vendor's page of a title.

    The template, that of the settings, contains `{library_id}` and `{identifier}`. Other braces stay.
    """
    for placeholder, value in {"{library_id}": library_id, "{identifier}": identifier}.items():
        template = template.replace(placeholder, quote(value, safe=""))
    return template


def fill_title_url(template: str | None, values: Mapping[str, str]) -> str:
    """Return the URL of a title by a template; without one, by that of the settings."""
    if template is None:
        return fill_vendor_url(get_settings().title_url_template, values["library_id"], values["identifier"])
    return fill_url(template, values)


def fill_url(template: str, values: Mapping[str, str]) -> str:
    """Return the URL for a title, with percent-encoded values."""
    return _PLACEHOLDER.sub(lambda placeholder: quote(values[placeholder[1]], safe=""), template)


def fill_text(text: str, values: Mapping[str, str]) -> str:
    """Return the text for a title."""
    return _PLACEHOLDER.sub(lambda placeholder: values[placeholder[1]], text)


def placeholder_values(entry: FeedTitle) -> Mapping[str, str]:
    """Return the values of all placeholders for a title."""
    title = entry.title
    return {
        "identifier": title.identifier,
        "isbn": title.isbns[0] if title.isbns else "",
        "format": title.format or "",
        "collection": title.collection,
        "library_id": entry.library_id,
        "owned": str(title.licenses_owned),
        "available": str(title.licenses_available),
    }
