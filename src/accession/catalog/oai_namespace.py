"""The domain name in the identifiers of all records, which never changes once they have been harvested."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.core.oai_namespace import is_oai_namespace
from accession.core.settings import get_settings
from accession.db.models import Collection, OaiRepository

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# While there is no record that could be identified.
_EMPTY_REPOSITORY = "accession.invalid"


def repository_namespace(session: Session) -> str:
    """Return the configured domain name, or else that of the first use.

    At the first use it is the configured one, or else the host of the public URL. If that is unset, or not a
    domain name that the format of identifiers allows, it is a name that no other installation has.
    """
    configured = get_settings().oai_namespace
    stored = select(OaiRepository.namespace)
    namespace = session.scalar(stored)
    if namespace is None and (catalogue := _catalogue_id(session)) is not None:
        first = configured or _public_host() or f"accession-{catalogue}.invalid"
        session.execute(insert(OaiRepository).values(namespace=first).on_conflict_do_nothing())
        namespace = session.scalars(stored).one()
    return configured or namespace or _EMPTY_REPOSITORY


def _public_host() -> str | None:
    """Return the host of the public URL if identifiers may contain it."""
    public_url = get_settings().public_url
    host = None if public_url is None else urlsplit(public_url).hostname
    return host if host is not None and is_oai_namespace(host) else None


def _catalogue_id(session: Session) -> str | None:
    """Return an id of this catalogue that differs from that of every other; None without any collection.

    It is the time at which the first collection was added, in microseconds and hexadecimal. Collections are
    never deleted from the database, so backups and moves keep it.
    """
    first: datetime | None = session.scalar(select(Collection.created_at).order_by(Collection.id).limit(1))
    return None if first is None else f"{(first - _EPOCH) // timedelta(microseconds=1):x}"
