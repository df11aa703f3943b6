"""The session of someone who has logged in: a signed cookie that says who, and since when."""

import time
from dataclasses import dataclass
from datetime import timedelta

from itsdangerous import BadData, URLSafeTimedSerializer

from accession.accounts.keys import derived_key
from accession.db.models import User

COOKIE = "accession_session"
LASTS = timedelta(hours=12)
RENEWED_AFTER = timedelta(hours=1)


@dataclass(frozen=True)
class WebSession:
    """What a cookie says that we have signed: whose session, begun with which key of the user's."""

    user_id: int
    session_key: str
    age_seconds: float

    @property
    def is_to_be_renewed(self) -> bool:
        """Whether its use has to make it last longer."""
        return self.age_seconds > RENEWED_AFTER.total_seconds()


def read_session(cookie: str) -> WebSession | None:
    """What the cookie says; None when it is not ours, or its time is over."""
    try:
        (user_id, session_key), signed_at = _serializer().loads(
            cookie, max_age=int(LASTS.total_seconds()), return_timestamp=True
        )
    except BadData:
        return None
    return WebSession(user_id, session_key, time.time() - signed_at.timestamp())


def session_cookie(user: User, *, secure: bool) -> str:
    """The `Set-Cookie` that begins a session of the user, or makes it last longer."""
    return _cookie(_serializer().dumps([user.id, user.session_key]), int(LASTS.total_seconds()), secure)


def ended_cookie(*, secure: bool) -> str:
    """The `Set-Cookie` that takes the session away."""
    return _cookie("", 0, secure)


def _cookie(value: str, seconds: int, secure: bool) -> str:
    only_by_tls = "; Secure" if secure else ""
    return f"{COOKIE}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax{only_by_tls}"


def _serializer() -> URLSafeTimedSerializer:
    # Made anew each time: a changed key counts at once.
    return URLSafeTimedSerializer(derived_key("sessions of the dashboard"), salt="session")
