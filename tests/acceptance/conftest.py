"""An installation that programs of others read."""

from collections.abc import Iterator

import httpx
import pytest

from tests.fixtures.imported_library import ImportedLibrary, imported_library
from tests.fixtures.waiting import DEADLINE_SECONDS


@pytest.fixture(scope="session")
def library() -> Iterator[ImportedLibrary]:
    """One installation for all tests, which only read."""
    with imported_library() as library:
        yield library


@pytest.fixture(scope="session")
def reader(library: ImportedLibrary) -> Iterator[httpx.Client]:
    """A client that may read all feeds of titles."""
    headers = {"Authorization": f"Bearer {library.token}"}
    with httpx.Client(base_url=library.base_url, headers=headers, timeout=DEADLINE_SECONDS) as client:
        yield client
