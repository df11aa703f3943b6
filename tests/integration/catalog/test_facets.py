"""Facets: formats and languages of titles."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.facets import Facets, title_facets
from accession.core.errors import NotFound
from accession.core.vocabulary import Format
from accession.db.models import Collection
from tests.fixtures.factories import apply_titles, make_collection, make_pool, title_data


def add_title(session: Session, collection: Collection, identifier: str, **fields: Any) -> None:
    pool = make_pool(session, collection, identifier)
    apply_titles(session, {pool.id: title_data(identifier, **fields)})
    session.commit()


def test_facets_list_formats_and_languages(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    assert title_facets(session) == Facets((), ())
    add_title(session, collection, "a", format=Format.PDF, language="ger")
    add_title(session, collection, "b", format=Format.EPUB, language=None)
    add_title(session, other, "c", format=None, language="eng")

    assert title_facets(session) == Facets(("epub", "pdf"), ("eng", "ger"))
    assert title_facets(session, "Alder Library") == Facets(("epub", "pdf"), ("ger",))
    assert title_facets(session, "Birch Library") == Facets((), ("eng",))
    with pytest.raises(NotFound):
        title_facets(session, "Unknown Library")


def test_facets_skip_deleted_collections(session: Session, collection: Collection) -> None:
    add_title(session, collection, "a")

    mark_for_deletion(collection)
    session.commit()

    assert title_facets(session) == Facets((), ())
