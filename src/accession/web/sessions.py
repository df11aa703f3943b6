"""Sessions of logged-in users: a signed cookie with the user's id and the time it was signed."""

import time
from dataclasses import dataclass
from datetime import timedelta

from itsdangerous import BadData, URLSafeTimedSerializer

from accession.accounts.keys import derive_key
from accession.db.models import User
from accession.web.addresses import cookie_name, cookie_path

COOKIE = "accession_session"
"""Name of the cookie, without the root."""

MAX_AGE = timedelta(hours=12)
RENEWED_AFTER = timedelta(hours=1)


@dataclass(frozen=True)
class WebSession:
    """Contents of a valid session cookie.

    `session_key` is the user's key at the time of signing: changing the key ends the user's sessions.
    """

    user_id: int
    session_key: str
    age_seconds: float

    @property
    def is_to_be_renewed(self) -> bool:
        """Return whether the cookie is old enough to be replaced by a new one on use."""
        return self.age_seconds > RENEWED_AFTER.total_seconds()


def read_session(cookie: str) -> WebSession | None:
    """Return the contents of the cookie; None when its signature is invalid or it has expired."""
    try:
        (user_id, session_key), signed_at = _serializer().loads(
            cookie, max_age=int(MAX_AGE.total_seconds()), return_timestamp=True
        )
    except BadData:
        return None
    return WebSession(user_id, session_key, time.time() - signed_at.timestamp())


def session_cookie(user: User, *, secure: bool) -> str:
    """Return the `Set-Cookie` value that starts or renews a session of the user."""
    return _cookie(_serializer().dumps([user.id, user.session_key]), int(MAX_AGE.total_seconds()), secure)


def expired_cookie(*, secure: bool) -> str:
    """Return the `Set-Cookie` value that deletes the session cookie."""
    return _cookie("", 0, secure)


def _cookie(value: str, seconds: int, secure: bool) -> str:
    secure_attribute = "; Secure" if secure else ""
    name, path = cookie_name(COOKIE), cookie_path()
    return f"{name}={value}; Max-Age={seconds}; Path={path}; HttpOnly; SameSite=Lax{secure_attribute}"


def _serializer() -> URLSafeTimedSerializer:
    # Not cached: a rotated key takes effect at once.
    return URLSafeTimedSerializer(derive_key("sessions of the dashboard"), salt="session")
