"""Standard output that is full, closed, or closed by its reader: no command ends with a traceback."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.factories import make_hourly_pools

COMMANDS = (
    ("--help",),
    ("--version",),
    ("export", "--help"),
    ("export", "columns"),
    ("export", "csv"),
    ("export", "marc"),
    ("titles", "list"),
    ("titles", "list", "--json"),
)

requires_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, of Linux")


@pytest.fixture
def environment(
    session: Session, collection: Collection, servers: ServerUrls, tmp_path: Path
) -> Mapping[str, str]:
    """Environment of a command on a catalogue with three titles."""
    make_hourly_pools(session, collection)
    return {
        **os.environ,
        "ACCESSION_HOME": str(tmp_path),
        "ACCESSION_DATABASE_URL": servers.database_url,
        "ACCESSION_REDIS_URL": servers.redis_url,
    }


def run(
    arguments: tuple[str, ...], environment: Mapping[str, str], stdout: int, *launcher: str
) -> tuple[int, str]:
    """Run a command with this standard output; return its exit code and what it printed to standard error."""
    process = subprocess.run(
        [*launcher, sys.executable, "-m", "accession", *arguments],
        env=dict(environment),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return process.returncode, process.stderr


@requires_full_device
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_full_output_is_one_sentence(arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        code, errors = run(arguments, environment, full)
    finally:
        os.close(full)

    assert (code, errors) == (
        1,
        "The output cannot be written (No space left on device): what was written so far is incomplete; "
        "write it to another place.\n",
    )


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_output_closed_by_its_reader_is_silent(
    arguments: tuple[str, ...], environment: Mapping[str, str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run(arguments, environment, writer) == (128 + signal.SIGPIPE, "")
    finally:
        os.close(writer)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_missing_output_discards_what_is_printed(
    arguments: tuple[str, ...], environment: Mapping[str, str]
) -> None:
    assert run(arguments, environment, subprocess.DEVNULL, "sh", "-c", '"$@" >&-', "sh") == (0, "")
