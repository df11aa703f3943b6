"""Count how often the vendor lists each record in a time span that a run requests page by page."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from accession.db.bulk import array_parameters, insert_statement
from accession.db.models import ListedRecord, Run, table_of


@dataclass(frozen=True)
class Listing:
    """Number of times that a record was listed, and the content hash of the latest one."""

    listed: int
    content_hash: str


class ListedRecords:
    """The records that the vendor has listed in the time span that a run is importing or verifying.

    They are written to the given session, so that a page is counted in the transaction of its step.
    """

    def __init__(self, session: Session, run: Run, *, is_verification: bool) -> None:
        self._session = session
        self._run = run
        self._is_verification = is_verification

    @property
    def _of_span(self) -> ColumnElement[bool]:
        return (ListedRecord.run_id == self._run.id) & (ListedRecord.is_verification == self._is_verification)

    def clear(self) -> None:
        """Forget all records, at the start or the end of a span."""
        self._session.execute(delete(ListedRecord).where(self._of_span))

    def add(self, records: Sequence[tuple[str, str]], times: int = 1) -> Counter[str]:
        """Add a page's records, each with its key and content hash; return how often each key was listed.

        Each record counts `times`: with -1 it is subtracted.
        """
        if not records:
            return Counter()
        hashes = dict(records)
        rows = [
            {
                "run_id": self._run.id,
                "is_verification": self._is_verification,
                "key": key,
                "content_hash": hashes[key],
                "listed": times * listed,
            }
            for key, listed in sorted(Counter(key for key, _ in records).items())
        ]
        counts = self._session.execute(_add_statement(), array_parameters(rows))
        return Counter(dict(counts.all()))

    def read(self) -> dict[str, Listing]:
        """Return all records of the span by their keys."""
        query = select(ListedRecord.key, ListedRecord.listed, ListedRecord.content_hash)
        rows = self._session.execute(query.where(self._of_span))
        return {key: Listing(listed, content_hash) for key, listed, content_hash in rows}


@cache
def _add_statement() -> ReturningInsert[str, int]:
    """Return the INSERT of records with their counts, which are added to those of the stored records."""
    key = ("run_id", "is_verification", "key")
    statement = insert_statement(table_of(ListedRecord), *key, "content_hash", "listed")
    new_values = {
        "listed": ListedRecord.listed + statement.excluded.listed,
        "content_hash": statement.excluded.content_hash,
    }
    upsert = statement.on_conflict_do_update(index_elements=key, set_=new_values)
    return upsert.returning(ListedRecord.key, ListedRecord.listed)
