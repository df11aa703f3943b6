"""Channels: named Apprise URLs, which are stored encrypted and never shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import SecretStr
from sqlalchemy import Select, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.accounts.keys import encrypt_secret, lock_against_rotation
from accession.auth.names import validate_name
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.db.models import DeliveryState, Notification, NotificationChannel, NotificationRule
from accession.db.named_rows import find_by_name, get_by_id
from accession.notifications.services import check_url

_NOUN = "notification channel"


@dataclass(frozen=True)
class ChannelView:
    """A channel, as listed.

    `service` is the name of the service that its URL leads to. `last_state` and `last_error` are those of its
    latest message that was sent or tried.
    """

    id: int
    name: str
    service: str
    rules: int
    created_at: datetime
    last_sent_at: datetime | None
    last_state: str | None
    last_error: str | None


def list_channels(session: Session) -> Sequence[NotificationChannel]:
    """Return all channels, by name."""
    return session.scalars(select(NotificationChannel).order_by(NotificationChannel.name)).all()


def channel_views(session: Session) -> list[ChannelView]:
    """Return all channels, by name."""
    rules = select(func.count()).where(NotificationRule.channel_id == NotificationChannel.id)
    query = select(NotificationChannel, rules.scalar_subquery()).order_by(NotificationChannel.name)
    return [_view(session, channel, number) for channel, number in session.execute(query)]


def _view(session: Session, channel: NotificationChannel, rules: int) -> ChannelView:
    tried = select(Notification).where(Notification.channel_id == channel.id, Notification.tries > 0)
    last = session.scalars(tried.order_by(Notification.id.desc()).limit(1)).one_or_none()
    sent_at = select(func.max(Notification.sent_at)).where(Notification.channel_id == channel.id)
    return ChannelView(
        channel.id,
        channel.name,
        channel.service,
        rules,
        channel.created_at,
        session.scalar(sent_at),
        None if last is None else last.state,
        None if last is None else last.error,
    )


def find_channel(session: Session, name: str) -> NotificationChannel:
    """Return the channel with this name.

    Raises:
        NotFound: there is none.
    """
    return find_by_name(
        session, NotificationChannel, name, noun=_NOUN, listing="accession notifications list"
    )


def get_channel(session: Session, channel_id: int) -> NotificationChannel:
    """Return the channel with this id.

    Raises:
        NotFound: there is none.
    """
    return get_by_id(session, NotificationChannel, channel_id, noun=_NOUN)


def add_channel(session: Session, name: str, url: SecretStr) -> NotificationChannel:
    """Add a channel.

    Raises:
        InvalidInput: Apprise does not support the URL.
        UserError: the name is in use or invalid.
    """
    validate_name(_NOUN, name)
    service = check_url(url)
    lock_against_rotation(session)
    row = {
        "name": name,
        "service": service,
        "url_encrypted": encrypt_secret(SecretStr(url.get_secret_value().strip())),
        "created_at": utc_now(),
    }
    statement = insert(NotificationChannel).values(row).on_conflict_do_nothing()
    channel = session.scalars(statement.returning(NotificationChannel)).one_or_none()
    if channel is None:
        raise UserError(
            f'A notification channel named "{name}" already exists: choose another name, '
            f'or remove it with `accession notifications remove "{name}"`.'
        )
    return channel


def change_channel_url(session: Session, channel: NotificationChannel, url: SecretStr) -> None:
    """Replace the URL of a channel; messages that have not been sent yet go to the new one.

    Raises:
        InvalidInput: Apprise does not support the URL.
    """
    channel.service = check_url(url)
    lock_against_rotation(session)
    channel.url_encrypted = encrypt_secret(SecretStr(url.get_secret_value().strip()))


def remove_channel(session: Session, channel: NotificationChannel) -> None:
    """Delete a channel, its rules and its messages that have not been sent; the delivery log stays."""
    delete_pending(session, select(Notification.id).where(Notification.channel_id == channel.id))
    session.execute(delete(NotificationChannel).where(NotificationChannel.id == channel.id))


def delete_pending(session: Session, ids: Select[int]) -> None:
    """Delete those of the messages that have not been sent."""
    is_pending = Notification.state == DeliveryState.PENDING
    session.execute(delete(Notification).where(Notification.id.in_(ids), is_pending))
