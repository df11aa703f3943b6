"""Identity of the feeds that other programs harvest."""

from __future__ import annotations

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from accession.db.models.base import Base


class OaiRepository(Base):
    """The only row has the domain name in all OAI-PMH identifiers, from their first use on."""

    __tablename__ = "oai_repository"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, server_default="1")
    namespace: Mapped[str]
