"""Email addresses."""

import re

MAX_LENGTH = 254
# Without quoted local parts and non-ASCII characters, which not every mail server delivers.
_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]+(\.[\w-]+)+", re.ASCII)


def is_email_address(text: str) -> bool:
    """Return whether the text is an address that every mail server accepts, such as name@library.example."""
    return len(text) <= MAX_LENGTH and _ADDRESS.fullmatch(text) is not None
