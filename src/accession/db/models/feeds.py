"""Identity of the feeds that other programs harvest, and results of scheduled exports."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from accession.db.models.base import Base


class OaiRepository(Base):
    """The only row has the domain name in all OAI-PMH identifiers, from their first use on."""

    __tablename__ = "oai_repository"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, server_default="1")
    namespace: Mapped[str]


class ExportResult(Base):
    """Result of a scheduled export, by its name: when it last ended, and the last file that was written.

    `error` is None if the last attempt has written the file. The file's columns are None before the first.
    """

    __tablename__ = "export_results"

    name: Mapped[str] = mapped_column(primary_key=True)
    ended_at: Mapped[datetime]
    error: Mapped[str | None]
    file: Mapped[str | None]
    written_at: Mapped[datetime | None]
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    titles: Mapped[int | None]
