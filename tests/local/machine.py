"""What the tests of this folder share: homes, patience, ports, programs of others."""

import os
import pwd
import shutil
import site
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

import accession
from accession.local.home import prepare_home
from accession.local.postgres import remove_home_data

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


T = TypeVar("T")


def eventually(look: Callable[[], T], seconds: float = 20) -> T:
    """What `look` returns once that is true; fails when it stays false too long."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)
    return seen


def free_port() -> str:
    """A port of 127.0.0.1 that nobody has, as an environment variable gives it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def status_of(url: str) -> int | None:
    """What a server there answers; None when none does."""
    try:
        return httpx.get(url).status_code
    except httpx.TransportError:
        return None


@contextmanager
def new_home(parent: Path) -> Iterator[Path]:
    """A prepared home, whose data are removed in the end, those outside of it, too."""
    home = parent / "home"
    prepare_home(home)
    yield home
    remove_home_data(home)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user may pass through, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="accession-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def run_as_nobody(program: str, *arguments: str) -> str:
    """What the Python program prints when `nobody` runs it with Accession importable."""
    nobody = pwd.getpwnam("nobody")
    found = [Path(accession.__file__).parent.parent, *site.getsitepackages()]
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(map(str, [*found, Path(__file__).with_name("older_python")])),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    same_version = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, same_version):
        try:
            done = subprocess.run(
                [python, "-c", program, *arguments],
                user=nobody.pw_uid,
                group=nobody.pw_gid,
                extra_groups=[],
                env=environment,
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
        except (PermissionError, FileNotFoundError):
            continue
        assert done.returncode == 0, done.stderr
        return done.stdout
    pytest.skip("nobody cannot run a Python of this version here")
