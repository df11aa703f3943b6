"""What a collection holds in the steps' tests, and what is to be seen of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.bibliotheca.items import DATA_SOURCE, parse_items
from accession.catalog.apply import apply_outbox, apply_titles
from accession.catalog.data import ApplyData, IdentifierType
from accession.catalog.models import ApplyOutbox, Collection, Identifier, LicensePool
from accession.catalog.queries import title_views
from tests.making import day
from tests.vendor import Vendor, item

BEFORE = day(2024, 4, 30)


def hold(
    session: Session,
    collection: Collection,
    vendor: Vendor,
    *names: str,
    as_of: datetime = BEFORE,
    owned: int = 1,
    available: int = 1,
    holds: int = 0,
) -> None:
    """Committed titles of the collection, which are as the vendor's `items` says, and said `as_of`."""
    for name in names:
        vendor.items[name] = item(name, title=f"Title {name}", owned=owned, available=available, holds=holds)
    document = f"<ArrayOfItem>{''.join(vendor.items[name] for name in names)}</ArrayOfItem>"
    pools = LicensePool.for_foreign_ids(
        session, DATA_SOURCE, IdentifierType.BIBLIOTHECA, names, collection=collection
    )
    told = parse_items(document.encode(), as_of).titles
    apply_titles(session, {pools[title.identifier][0].id: title for title in told})
    session.commit()


def names(count: int, prefix: str = "t") -> list[str]:
    """So many identifiers, in the order of their ids when they are held at once."""
    return [f"{prefix}{n:04}" for n in range(count)]


def held(session: Session) -> dict[str, tuple[int, int, int, int, str]]:
    """The titles, each with its copies owned, available and reserved, its holds, and its status."""
    return {
        view.identifier: (
            view.licenses_owned,
            view.licenses_available,
            view.licenses_reserved,
            view.patrons_in_hold_queue,
            view.status,
        )
        for view in title_views(session)
    }


def outbox(session: Session) -> dict[int, tuple[str, ApplyData]]:
    """Row id to the title and what is to be applied to it."""
    query = select(ApplyOutbox).join(ApplyOutbox.license_pool).join(LicensePool.identifier)
    rows = session.execute(query.add_columns(Identifier.identifier).order_by(ApplyOutbox.id))
    return {row.id: (name, ApplyData.model_validate(row.data)) for row, name in rows}


def apply(session: Session, outbox_ids: Sequence[int]) -> None:
    """Commit the step, and apply what it says has to be."""
    session.commit()
    apply_outbox(session, outbox_ids)
    session.commit()


def warnings(logs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What was warned of."""
    return [line["event"] for line in logs if line["log_level"] == "warning"]
