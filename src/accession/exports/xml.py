"""What every XML that leaves has in common."""

import re
from collections.abc import Mapping

from lxml.etree import Element, QName, _Element

XSI = "http://www.w3.org/2001/XMLSchema-instance"
SCHEMA_LOCATION = QName(XSI, "schemaLocation")

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """The text without what XML 1.0 cannot hold: control characters, lone surrogates."""
    return _FORBIDDEN.sub("", text)


def new_element(name: QName, prefixes: Mapping[str | None, str]) -> _Element:
    """An element that declares these prefixes for what is in it."""
    return Element(name, nsmap=dict(prefixes))
