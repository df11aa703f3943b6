"""Editions: the metadata of titles, with contributors, subjects and links."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Computed,
    ForeignKey,
    Index,
    Text,
    UniqueConstraint,
    literal_column,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from accession.db.models.base import Base

_KEY = ["data_source", "identifier_id"]


class Edition(Base):
    """The metadata of one title from one data source, shared by all collections that hold it.

    `content_hash` covers all metadata and is written in the same transaction; it is null while there is none.
    `search_text` is the text in which titles are searched, `search_words` its lexemes for full text search.
    `sort_title` and `sort_author` are the texts by which lists are sorted; `audience` follows from the
    subjects.
    `on_sale` is an ISO 8601 date: a year, month or day.
    The SQL function `accession_fold` (see the migrations) removes accents and case.
    """

    __tablename__ = "editions"
    __table_args__ = (
        # Lists of titles join, filter and sort editions. The rows are wide; indexes with all columns needed
        # are read alone. Titles in a script of their own are together in an order, often at its end.
        UniqueConstraint(
            "data_source", "identifier_id", postgresql_include=["format", "language", "audience"]
        ),
        Index("ix_editions_format", "format", postgresql_include=_KEY),
        Index("ix_editions_audience", "audience", postgresql_include=_KEY),
        *(
            Index(f"ix_editions_{name}", *columns, postgresql_include=[*_KEY, *filters])
            for name, columns, filters in (
                ("sort_title", ["sort_title"], ["format", "language", "audience"]),
                ("sort_author", ["sort_author"], ["format", "language", "audience"]),
                ("language_sort_title", ["language", "sort_title"], ["format", "audience"]),
                ("language_sort_author", ["language", "sort_author"], ["format", "audience"]),
            )
        ),
        Index("ix_editions_on_sale", "on_sale"),
        Index("ix_editions_search_words", "search_words", postgresql_using="gin"),
        Index(
            "ix_editions_search_trigrams",
            literal_column("accession_fold(search_text)").label("folded"),
            postgresql_using="gin",
            postgresql_ops={"folded": "gin_trgm_ops"},
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    data_source: Mapped[str]
    identifier_id: Mapped[int] = mapped_column(ForeignKey("identifiers.id"))
    title: Mapped[str | None]
    subtitle: Mapped[str | None]
    publisher: Mapped[str | None]
    published: Mapped[str | None]
    # Dates of different precision are compared as text, in the order of their bytes.
    on_sale: Mapped[str | None] = mapped_column(Text(collation="C"))
    language: Mapped[str | None]
    description: Mapped[str | None]
    page_count: Mapped[int | None]
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    medium: Mapped[str | None]
    format: Mapped[str | None]
    search_text: Mapped[str | None] = mapped_column(deferred=True)
    # Persisted, because computing it takes about 0.1 ms a title.
    search_words: Mapped[str | None] = mapped_column(
        TSVECTOR,
        Computed("to_tsvector('simple'::regconfig, accession_fold(search_text))", persisted=True),
        deferred=True,
    )
    # Sorted as in Python, in the order of the bytes.
    sort_title: Mapped[str | None] = mapped_column(Text(collation="C"), deferred=True)
    sort_author: Mapped[str | None] = mapped_column(Text(collation="C"), deferred=True)
    audience: Mapped[str | None]
    content_hash: Mapped[str | None]
    as_of: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(index=True)


class Contributor(Base):
    """A person or an organisation, identified by sort name and display name."""

    __tablename__ = "contributors"
    __table_args__ = (UniqueConstraint("sort_name", "display_name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sort_name: Mapped[str]
    display_name: Mapped[str]


class Contribution(Base):
    """The role of a contributor in an edition."""

    __tablename__ = "contributions"

    edition_id: Mapped[int] = mapped_column(ForeignKey("editions.id", ondelete="CASCADE"), primary_key=True)
    contributor_id: Mapped[int] = mapped_column(ForeignKey("contributors.id"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]


class Subject(Base):
    """A subject heading of one scheme."""

    __tablename__ = "subjects"
    __table_args__ = (UniqueConstraint("scheme", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    scheme: Mapped[str]
    name: Mapped[str]


class Classification(Base):
    """A subject of an edition."""

    __tablename__ = "classifications"

    edition_id: Mapped[int] = mapped_column(ForeignKey("editions.id", ondelete="CASCADE"), primary_key=True)
    subject_id: Mapped[int] = mapped_column(ForeignKey("subjects.id"), primary_key=True, index=True)
    position: Mapped[int]


class Link(Base):
    """A URL of an edition: its cover, or the cover's thumbnail."""

    __tablename__ = "links"

    edition_id: Mapped[int] = mapped_column(ForeignKey("editions.id", ondelete="CASCADE"), primary_key=True)
    rel: Mapped[str] = mapped_column(primary_key=True)
    href: Mapped[str] = mapped_column(primary_key=True)
