"""Names and text handling shared by the XML exports."""

import re

from lxml.etree import QName

XSI = "http://www.w3.org/2001/XMLSchema-instance"
SCHEMA_LOCATION = QName(XSI, "schemaLocation")

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def remove_forbidden_characters(text: str) -> str:
    """Return `text` without characters that XML 1.0 forbids: control characters and lone surrogates."""
    return _FORBIDDEN.sub("", text)
