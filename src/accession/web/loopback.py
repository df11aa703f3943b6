"""An installation that only its own machine reaches, and one that others reach."""

import ipaddress

from sqlalchemy.orm import Session

from accession.auth.users import any_user
from accession.core.errors import UserError


def is_loopback(host: str) -> bool:
    """Whether this name or address is this machine's own, which no other machine reaches."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_open_house(session: Session, host: str) -> None:
    """Raises `UserError` when the dashboard would be served to other machines and nobody could log in."""
    if not is_loopback(host) and not any_user(session):
        raise UserError(
            f"The dashboard is to be served at {host}, where others reach it, and there is no user: "
            "add one with `accession users add NAME --role operator`, or unset ACCESSION_WEB_HOST."
        )
