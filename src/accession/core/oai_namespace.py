"""Domain names in identifiers of OAI-PMH records."""

import re

# http://www.openarchives.org/OAI/2.0/guidelines-oai-identifier.htm
_NAMESPACE = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*(\.[a-zA-Z][a-zA-Z0-9-]*)+")


def is_oai_namespace(text: str) -> bool:
    """Return whether the identifier format allows a domain name: each part has to begin with a letter."""
    return _NAMESPACE.fullmatch(text) is not None
