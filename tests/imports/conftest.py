"""What the steps' tests start from."""

import pytest
from sqlalchemy.orm import Session

from accession.catalog.models import Collection
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor import api_for
from tests.vendor import Vendor


@pytest.fixture
def importer(session: Session, collection: Collection, vendor: Vendor) -> BibliothecaPurchaseRecordImporter:
    """The importer of the collection, whose vendor has sold nothing yet."""
    return BibliothecaPurchaseRecordImporter(session, collection, api_for(collection))
