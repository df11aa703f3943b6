"""Purchase records that have been listed, kept until they are stored under their day."""

from collections.abc import Collection as AbstractCollection
from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, delete, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningDelete

from accession.db.bulk import in_array_parameter, insert_missing_rows
from accession.db.models import Collection, UndatedRecord, table_of


class UndatedRecords:
    """The undated records of one collection: raw XML by keys that stand for title and content."""

    def __init__(self, session: Session, collection: Collection) -> None:
        self._session = session
        self._collection = collection

    def add(self, records: Mapping[str, str]) -> None:
        """Keep records; those that are kept already are not written."""
        if not records:
            return
        rows = [
            {"collection_id": self._collection.id, "key": key, "raw_xml": raw_xml}
            for key, raw_xml in sorted(records.items())
        ]
        insert_missing_rows(self._session, table_of(UndatedRecord), rows)

    def read(self, keys: AbstractCollection[str]) -> dict[str, str]:
        """Return the records with these keys."""
        if not keys:
            return {}
        return dict(self._session.execute(_select_statement(), self._parameters(keys)).all())

    def take(self, keys: AbstractCollection[str]) -> dict[str, str]:
        """Forget the records with these keys, and return them."""
        if not keys:
            return {}
        return dict(self._session.execute(_delete_statement(), self._parameters(keys)).all())

    def clear(self) -> None:
        """Forget all records."""
        of_collection = UndatedRecord.collection_id == self._collection.id
        self._session.execute(delete(UndatedRecord).where(of_collection))

    def _parameters(self, keys: AbstractCollection[str]) -> dict[str, Any]:
        return {"collection": self._collection.id, "keys": list(keys)}


def _have_keys() -> ColumnElement[bool]:
    of_collection = UndatedRecord.collection_id == bindparam("collection")
    return of_collection & in_array_parameter(UndatedRecord.key, "keys")


@cache
def _select_statement() -> Select[str, str]:
    return select(UndatedRecord.key, UndatedRecord.raw_xml).where(_have_keys())


@cache
def _delete_statement() -> ReturningDelete[str, str]:
    statement = delete(table_of(UndatedRecord)).where(_have_keys())
    return statement.returning(UndatedRecord.key, UndatedRecord.raw_xml)
