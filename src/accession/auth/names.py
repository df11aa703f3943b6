"""Names of users and tokens."""

from accession.core.errors import InvalidInput

MAX_NAME_LENGTH = 100


def validate_name(kind: str, name: str) -> None:
    """Check a name; `kind` is "user" or "token".

    Raises:
        InvalidInput: it is empty, too long, or has line breaks, invisible characters or surrounding spaces.
    """
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= MAX_NAME_LENGTH:
        raise InvalidInput(
            f"The {kind} name {name!r} is invalid: enter 1 to {MAX_NAME_LENGTH} characters, "
            "without leading or trailing spaces, line breaks and invisible characters."
        )
