"""Password hashing with Argon2id."""

import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from pydantic import SecretStr

from accession.core.errors import InvalidInput

MIN_PASSWORD_LENGTH = 12

_hasher = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=4)


def validate_password(password: SecretStr) -> None:
    """Check the length of a new password.

    Raises:
        InvalidInput: the password is too short.
    """
    if len(_normalized(password)) < MIN_PASSWORD_LENGTH:
        raise InvalidInput(
            f"The password is too short: enter at least {MIN_PASSWORD_LENGTH} characters, such as four words."
        )


def hash_password(password: SecretStr) -> str:
    """Return the salted hash of a password, with its parameters."""
    return _hasher.hash(_normalized(password))


def verify_password(password_hash: str | None, password: SecretStr) -> bool:
    """Return whether the password has this hash.

    Without a hash the result is False, after the same computation: the time must not reveal which user
    names exist.
    """
    try:
        _hasher.verify(password_hash or _dummy_hash(), _normalized(password))
    except VerifyMismatchError:
        return False
    return password_hash is not None


def needs_rehash(password_hash: str) -> bool:
    """Return whether the hash was computed with other parameters than the present ones."""
    return _hasher.check_needs_rehash(password_hash)


def _dummy_hash() -> str:
    """Return a hash with the present parameters that no password matches."""
    parameters = f"m={_hasher.memory_cost},t={_hasher.time_cost},p={_hasher.parallelism}"
    return f"$argon2id$v=19${parameters}${'A' * 22}${'A' * 43}"


def _normalized(password: SecretStr) -> str:
    # Keyboards differ in how they encode the same letter.
    return unicodedata.normalize("NFKC", password.get_secret_value())
