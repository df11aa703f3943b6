"""What the catalogue's tests start from."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from accession.catalog import keys
from accession.settings import Settings, get_settings, use_settings
from tests.making import scratch_database


@pytest.fixture
def scratch(database: None) -> Iterator[Engine]:
    """A database of its own, without a table."""
    with scratch_database() as engine:
        yield engine


@pytest.fixture
def home(servers: object, tmp_path: Path) -> Iterator[Path]:
    """A home of its own, with nothing in it, whose keys are read anew."""
    before = get_settings()
    home = tmp_path / "home"
    use_settings(Settings(home=home, database_url=before.database_url, redis_url=before.redis_url))
    keys._cipher.cache_clear()
    yield home
    use_settings(before)
    keys._cipher.cache_clear()
