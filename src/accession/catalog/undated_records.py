"""Purchase records whose day is not known yet, kept until it is."""

from collections.abc import Collection as AbstractCollection
from collections.abc import Mapping

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from accession.db.bulk import in_array, insert_missing_rows
from accession.db.models import Collection, UndatedRecord, table_of


class UndatedRecords:
    """The undated records of one collection: raw XML by keys that stand for title and content."""

    def __init__(self, session: Session, collection: Collection) -> None:
        self._session = session
        self._collection = collection

    @property
    def _of_collection(self) -> ColumnElement[bool]:
        return UndatedRecord.collection_id == self._collection.id

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
        query = select(UndatedRecord.key, UndatedRecord.raw_xml)
        rows = self._session.execute(query.where(self._of_collection, in_array(UndatedRecord.key, keys)))
        return dict(rows.all())

    def take(self, keys: AbstractCollection[str]) -> dict[str, str]:
        """Forget the records with these keys, and return them."""
        if not keys:
            return {}
        statement = delete(UndatedRecord).where(self._of_collection, in_array(UndatedRecord.key, keys))
        rows = self._session.execute(statement.returning(UndatedRecord.key, UndatedRecord.raw_xml))
        return dict(rows.all())

    def clear(self) -> None:
        """Forget all records."""
        self._session.execute(delete(UndatedRecord).where(self._of_collection))
