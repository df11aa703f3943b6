"""Accession as process 1, as in a container."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from accession.local.servers import ServerUrls
from tests.fixtures.commands import environment, server_variables
from tests.fixtures.network import missing_requirement
from tests.fixtures.waiting import DEADLINE_SECONDS, wait_until
from tests.packages.documents import ROOT

# The port of no server.
UNREACHABLE = {
    "ACCESSION_DATABASE_URL": "postgresql://accession@127.0.0.1:1/accession",
    "ACCESSION_REDIS_URL": "redis://127.0.0.1:1/0",
}


@contextmanager
def first_process(name: str, variables: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """Run a command as process 1 of a namespace, and yield its parent, which ends with the same exit code."""
    if missing := missing_requirement():
        pytest.skip(f"ACCESSION AS PROCESS 1 IS NOT TESTED HERE: this machine lacks {missing}")
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen(
        [*unshare, sys.executable, "-m", "accession", name, "--wait-for-schema"],
        env=environment(**variables),
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        try:
            yield parent
        finally:
            parent.kill()


@pytest.mark.parametrize("name", ["worker", "beat", "web"])
def test_waiting_process_ends_on_sigterm(name: str, tmp_path: Path) -> None:
    """Linux ignores a signal for process 1 that it does not handle."""
    with first_process(name, {"ACCESSION_HOME": str(tmp_path), **UNREACHABLE}) as parent:
        assert parent.stderr is not None
        assert parent.stderr.readline().startswith("Waiting. ")
        (process,) = psutil.Process(parent.pid).children()
        process.send_signal(signal.SIGTERM)
        assert parent.wait(timeout=DEADLINE_SECONDS) == 0


def probe_of_compose_file() -> str:
    service: Any = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["worker"]
    kind, command = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    return str(command).replace("$$", "$")


def probe_of_manifest() -> str:
    manifest: Any = yaml.safe_load((ROOT / "packaging" / "kubernetes" / "worker.yaml").read_text())
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    shell, option, command = container["livenessProbe"]["exec"]["command"]
    assert (shell, option) == ("sh", "-c")
    return str(command)


def test_probes_find_worker(servers: ServerUrls, tmp_path: Path) -> None:
    variables = {"ACCESSION_HOME": str(tmp_path), **server_variables(servers)}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def succeeds(probe: str) -> bool:
        shell = subprocess.run(
            ["sh", "-c", probe], env=environment(PATH=path, **variables), capture_output=True
        )
        return shell.returncode == 0

    assert not succeeds(probe_of_compose_file())
    with first_process("worker", variables):
        wait_until(lambda: succeeds(probe_of_compose_file()))
        assert succeeds(probe_of_manifest())
