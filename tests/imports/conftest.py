"""What the steps' tests start from."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session
from structlog.testing import LogCapture
from structlog.typing import EventDict

from accession.catalog import schema
from accession.catalog.models import Base, Collection
from accession.imports import circulation, events, purchases, titles
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.events import BibliothecaEventImporter
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor import api_for
from accession.logging import set_up_logging
from accession.settings import Settings
from tests.making import scratch_database
from tests.vendor import Vendor

CATALOGUE = Base.metadata.tables.keys() - {
    "api_tokens",
    "collections",
    "looked_up_titles",
    "run_retries",
    "run_samples",
    "run_totals",
    "runs",
    "swept_batches",
    "timestamps",
    "users",
}


@pytest.fixture
def importer(session: Session, collection: Collection, vendor: Vendor) -> BibliothecaPurchaseRecordImporter:
    """The importer of the collection, whose vendor has sold nothing yet."""
    return BibliothecaPurchaseRecordImporter(session, collection, api_for(collection))


@pytest.fixture
def event_importer(session: Session, collection: Collection, vendor: Vendor) -> BibliothecaEventImporter:
    """The importer of the collection's events, of which there are none yet."""
    return BibliothecaEventImporter(session, collection, api_for(collection))


@pytest.fixture
def updater(session: Session, collection: Collection, vendor: Vendor) -> BibliothecaCirculationUpdater:
    """The sweep of the collection, which holds nothing yet."""
    return BibliothecaCirculationUpdater(session, collection, api_for(collection))


@pytest.fixture
def own(servers: object) -> Iterator[Engine]:
    """A database in which nobody else writes, so that its statistics are this test's alone."""
    with scratch_database() as engine:
        schema.upgrade(engine)
        yield engine


def rows_written(writer: Connection, engine: Engine) -> dict[str, int]:
    """Rows inserted, updated and deleted so far, by table of the catalogue."""
    writer.execute(text("SELECT pg_stat_force_next_flush()"))
    writer.commit()
    with engine.connect() as reader:
        counts = reader.execute(
            text("SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables")
        )
        return {name: written for name, written in counts if name in CATALOGUE}


@contextmanager
def logged() -> Iterator[list[EventDict]]:
    """What the steps log meanwhile."""
    capture = LogCapture()
    with pytest.MonkeyPatch.context() as patch:
        for module in (purchases, events, circulation, titles):
            patch.setattr(module, "log", structlog.wrap_logger(None, [capture]))
        yield capture.entries


class Everything(logging.Handler):
    """Every line of every library's log, at any level."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []

    def emit(self, record: Any) -> None:
        self.lines.append(self.format(record))


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """What all libraries log meanwhile, down to their last detail, also those that are told to be quiet."""
    root, handler = logging.getLogger(), Everything()
    with _logging_as_it_was():
        for name in list(root.manager.loggerDict):
            logging.getLogger(name).setLevel(logging.NOTSET)
        root.setLevel(logging.NOTSET)
        root.handlers[:] = [handler]
        yield handler.lines


@contextmanager
def logged_as_in_use(**chosen: Any) -> Iterator[None]:
    """Log as the program does, with these settings, to standard error."""
    with _logging_as_it_was():
        set_up_logging(Settings(**chosen))
        yield


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """Whatever is done to logging meanwhile is undone afterwards."""
    root, structured = logging.getLogger(), structlog.get_config()
    loggers = [root, *(logging.getLogger(name) for name in list(root.manager.loggerDict))]
    handlers, levels = root.handlers[:], [logger.level for logger in loggers]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        structlog.configure(**structured)
