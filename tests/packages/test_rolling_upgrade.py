"""A rolling upgrade: workers of this version and of a newer one import together."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.engine import engine
from accession.db.models import ACTIVE_STATES, ApplyOutbox, Run, RunState
from accession.local.servers import ServerUrls
from tests.chaos.baseline import add_library, baseline_import, simulated_library
from tests.fixtures.commands import environment, run_command, server_variables, settings
from tests.fixtures.factories import scratch_database
from tests.fixtures.fingerprint import difference, fingerprint
from tests.fixtures.waiting import wait_until
from tests.packages.documents import ROOT

# What the next version could change: a message with a new argument, and a table with a new column.
NEW_MIGRATION = """
from alembic import op
import sqlalchemy as sa

revision, down_revision = "0002", "0001"

def upgrade():
    op.add_column("runs", sa.Column("later", sa.Integer))
"""
CHANGES = {
    "__init__.py": [('__version__ = "0.1.0"', '__version__ = "0.2.0"')],
    "tasks/purchases.py": [
        ("    until: str | None = None,\n", "    until: str | None = None,\n    later: int = 0,\n"),
        (
            '        "verification": verification,\n',
            '        "verification": verification, "later": later,\n',
        ),
        ('{"reset_timestamp": False, ', '{"reset_timestamp": False, "later": 1, '),
    ],
    "db/models/runs.py": [
        (
            "    cursor: Mapped[dict[str, Any]]\n",
            "    cursor: Mapped[dict[str, Any]]\n    later: Mapped[int | None]\n",
        )
    ],
}


@pytest.fixture
def newer_source(tmp_path: Path) -> Path:
    """A folder with the source of a newer version."""
    package = tmp_path / "newer" / "accession"
    shutil.copytree(ROOT / "src" / "accession", package)
    for name, replacements in CHANGES.items():
        source = (package / name).read_text()
        for before, after in replacements:
            assert source.count(before) == 1, (name, before)
            source = source.replace(before, after)
        (package / name).write_text(source)
    (package / "db" / "migrations" / "versions" / "0002_later.py").write_text(NEW_MIGRATION)
    return package.parent


@contextmanager
def running_worker(folder: Path, variables: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a worker with a home and a log in the folder, and end it with its children."""
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "accession", "worker", "--concurrency=2"],
            env=environment(**{**variables, "ACCESSION_HOME": str(folder)}),
            stdout=log,
            stderr=log,
        )
    try:
        yield worker
    finally:
        worker.terminate()
        worker.wait()


def count_pages(database: Engine, workflow: Workflow) -> int:
    with Session(database) as session:
        return session.scalar(select(func.sum(Run.pages)).filter_by(workflow=workflow)) or 0


def is_idle(database: Engine) -> bool:
    with Session(database) as session:
        active = session.scalar(select(func.count(Run.id)).where(Run.state.in_(ACTIVE_STATES)))
        return not active and not session.scalar(select(func.count(ApplyOutbox.id)))


def run(*arguments: str, **variables: str) -> None:
    result = run_command(*arguments, env=environment(**variables))
    assert result.exit_code == 0, result


def test_workers_of_two_versions_import_together(
    servers: ServerUrls, database: None, newer_source: Path, tmp_path: Path
) -> None:
    """The older one puts back what the newer one sends, and ends; the newer one continues its runs."""
    key = Fernet.generate_key().decode()
    with simulated_library(titles=150, days=40) as vendor, scratch_database() as shared:
        with Session(engine()) as session:
            expected = baseline_import(session, vendor)
        database_url = shared.url.render_as_string(hide_password=False)
        urls = ServerUrls(database_url, f"{servers.redis_url}?db=1")
        older = {**server_variables(urls), "ACCESSION_SECRET_KEY": key, "ACCESSION_HOME": str(tmp_path)}
        newer = {**older, "PYTHONPATH": str(newer_source)}
        run("db", "upgrade", **older)
        with settings(database_url=database_url, secret_key=key), Session(shared) as session:
            add_library(session, vendor)
            session.commit()
        vendor.sandbox.latency_ms = 200
        with running_worker(tmp_path / "older", older) as older_worker:
            for workflow in (Workflow.PURCHASES, Workflow.EVENTS):
                run("import", workflow, "--import-all", **older)
                wait_until(lambda: count_pages(shared, workflow) > 1, "the older worker imports")  # noqa: B023
            run("db", "upgrade", **newer)
            with running_worker(tmp_path / "newer", newer):
                put_back = tmp_path / "older" / "log"
                wait_until(
                    lambda: "put back for a newer worker" in put_back.read_text(), "a message is put back"
                )
                older_worker.terminate()
                wait_until(lambda: is_idle(shared), "the imports have ended")
                run("import", "circulation", "--import-all", **newer)
                wait_until(lambda: is_idle(shared), "the circulation import has ended")
        with Session(shared) as session:
            assert {run.error or run.state for run in session.scalars(select(Run))} == {RunState.SUCCEEDED}
            assert difference(expected, fingerprint(session)) == []
