"""Checks that the stored purchases of a simulation are the vendor's."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import select

from accession.db.engine import transaction
from accession.db.models import Collection, Identifier, LicensePool, PurchaseRecord
from accession.imports.windows import Width
from tests.chaos.invariants import InvariantViolation
from tests.chaos.unreliable_vendor import Purchase, UnreliableVendor
from tests.fixtures.stored import checkpoint_confirmed, titles_with_metadata

# The daily import finds purchases that the vendor lists up to so late.
RECENT = timedelta(days=31)


@dataclass(frozen=True)
class StoredPurchase:
    """A purchase record in the database. With `month_only`, its day is the first of its month."""

    item_id: str
    day: date
    month_only: bool


class PurchaseChecks:
    """Checks of the purchases during and after the imports."""

    def __init__(self, collection: Collection, vendor: UnreliableVendor, width: Width) -> None:
        self._collection = collection
        self._vendor = vendor
        self._width = width
        self.confirmed: datetime | None = None

    def is_confirmed_until(self, moment: datetime) -> bool:
        return self.confirmed is not None and self.confirmed >= moment

    def check_confirmed(self) -> None:
        """Check that everything before `confirmed` is stored, except what was listed later.

        Raises:
            InvariantViolation: a purchase is missing.
        """
        confirmed = checkpoint_confirmed(self._collection.id)
        if confirmed == self.confirmed or confirmed is None:
            return
        self.confirmed = confirmed
        stored = _stored_purchases()
        due = [each for each in self._vendor.listed if each.moment < confirmed and not each.is_late]
        if missing := [purchase for purchase in due if not stored & self._forms(purchase)]:
            raise InvariantViolation(f"confirmed until {confirmed}, but these are not stored: {missing}")

    def check_all(self, now: datetime) -> None:
        """Check that the stored purchases are the vendor's, and that the titles have metadata.

        Purchases that were listed too late may be missing, and withdrawn ones may be stored.

        Raises:
            InvariantViolation: a purchase or its metadata are missing, or a purchase is in excess.
        """
        stored, vendor = _stored_purchases(), self._vendor
        due = [each for each in vendor.listed if not each.is_late or each.moment >= now - RECENT]
        possible = {form for each in (*vendor.listed, *vendor.withdrawn) for form in self._forms(each)}
        missing = [purchase for purchase in due if not stored & self._forms(purchase)]
        if missing or stored - possible:
            raise InvariantViolation(f"missing: {missing}; in excess: {stored - possible}")
        if without := {purchase.item_id for purchase in due} - titles_with_metadata():
            raise InvariantViolation(f"titles without metadata: {sorted(without)}")

    def _forms(self, purchase: Purchase) -> set[StoredPurchase]:
        """Return the forms in which a purchase may be stored."""
        purchased_on = purchase.moment.date()
        forms = {StoredPurchase(purchase.item_id, purchased_on, month_only=False)}
        if self._width is Width.MONTH:
            forms.add(StoredPurchase(purchase.item_id, purchased_on.replace(day=1), month_only=True))
        return forms


def _stored_purchases() -> set[StoredPurchase]:
    query = (
        select(Identifier.identifier, PurchaseRecord.purchased_on, PurchaseRecord.month_only)
        .join(LicensePool, LicensePool.identifier_id == Identifier.id)
        .join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id)
    )
    with transaction() as session:
        return {StoredPurchase(*row) for row in session.execute(query)}
