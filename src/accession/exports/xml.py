"""What every XML that leaves has in common."""

import re

from lxml.etree import QName

XSI = "http://www.w3.org/2001/XMLSchema-instance"
SCHEMA_LOCATION = QName(XSI, "schemaLocation")

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """The text without what XML 1.0 cannot hold: control characters, lone surrogates."""
    return _FORBIDDEN.sub("", text)
