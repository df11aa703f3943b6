"""The section about systemd in docs/deployment.md, followed line by line on two machines.

The machines are namespaces, which have no systemd: the test starts the commands of their units itself.
"""

import configparser
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from accession.core.workflow import SCHEDULED_WORKFLOWS
from tests.chaos.baseline import simulated_library
from tests.fixtures.cluster import DatabaseServer, start_database, start_valkey
from tests.fixtures.cluster_import import vendor_at
from tests.fixtures.network import Machine, Network, missing_requirement, running_network
from tests.fixtures.running_sandbox import RunningSandbox
from tests.packages.documents import ROOT

# What the guide changes on a machine. The changes are kept beside these folders of this machine.
CHANGED_FOLDERS = ("/etc", "/opt", "/usr/local", "/var/lib")
NOT_IN_SOURCE = (
    ".git",
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    "build",
    "dist",
)
URLS = ("postgresql://accession:password@db.example/accession", "redis://:password@broker.example:6379/0")
UNITS = "etc/systemd/system"


def guide_blocks() -> list[list[str]]:
    """Return the commands of the section, by block."""
    text = (ROOT / "docs" / "deployment.md").read_text()
    section = text[text.index("## systemd\n") : text.index("## Kubernetes\n")]
    blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [[line.strip().removeprefix("# ") for line in block.strip().splitlines()] for block in blocks]


@dataclass(frozen=True)
class Host:
    """A machine on which the guide is followed, and the folder with the source."""

    machine: Machine
    source: Path

    @classmethod
    def prepare(cls, machine: Machine, source: Path, program: Path) -> "Host":
        """Make the folders of the machine changeable; /opt/accession is the same on all machines."""
        for number, folder in enumerate(CHANGED_FOLDERS):
            upper, work = (machine.folder / f"{kind}-{number}" for kind in ("upper", "work"))
            upper.mkdir()
            work.mkdir()
            options = f"lowerdir={folder},upperdir={upper},workdir={work}"
            machine.run("mount", "-t", "overlay", "overlay", "-o", options, folder)
        machine.run("mkdir", "/opt/accession")
        machine.run("mount", "--bind", str(program), "/opt/accession")
        return cls(machine, source)

    def follow(self, commands: Sequence[str], *, with_internet: bool = False) -> str:
        """Run the commands of a block in one shell, and return their output."""
        namespaces = ("--mount",) if with_internet else ("--mount", "--net", "--uts", "--pid")
        script = "\n".join([f"cd {self.source}", *commands])
        result = subprocess.run(
            ["nsenter", f"--target={self.machine.pid}", *namespaces, "--", "sh", "-ec", script],
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, f"{commands} failed:\n{result.stdout}{result.stderr}"
        return result.stdout

    def read(self, path: str) -> str:
        return Path(f"/proc/{self.machine.pid}/root/{path}").read_text()

    def enable(self, command: str) -> list[str]:
        """Start what `systemctl enable --now` would start, and return the names of the services."""
        words = shlex.split(command)
        assert words[:3] == ["systemctl", "enable", "--now"], command
        units = [name for name in words[3:] if not name.endswith(".target")]
        for unit in units:
            service = self._service(re.sub("@.*", "@", unit))
            lines = self.read(service["EnvironmentFile"]).splitlines()
            variables = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
            self.machine.start(
                ["runuser", "-u", service["User"], "--", *shlex.split(service["ExecStart"])],
                environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **variables},
            )
        return units

    def _service(self, name: str) -> configparser.SectionProxy:
        unit = configparser.RawConfigParser(strict=False)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(self.read(f"{UNITS}/{name}.service"))
        return unit["Service"]


@dataclass(frozen=True)
class Place:
    """Two machines on which the guide is followed, and the URLs of the servers on two others."""

    hosts: tuple[Host, Host]
    urls: tuple[str, str]
    network: Network


@pytest.fixture
def place() -> Iterator[Place]:
    if missing := missing_requirement():
        pytest.skip(f"THE GUIDE FOR SYSTEMD IS NOT FOLLOWED HERE: this machine lacks {missing}")
    with running_network() as network:
        source, program = network.folder / "source", network.folder / "program"
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_IN_SOURCE))
        program.mkdir()
        database, broker = DatabaseServer(network.add("database")), network.add("broker")
        urls = start_database(database), start_valkey(broker)
        first, second = (Host.prepare(network.add(name), source, program) for name in ("first", "second"))
        yield Place((first, second), urls, network)


@pytest.fixture
def vendor() -> Iterator[RunningSandbox]:
    with simulated_library(titles=60, days=40) as vendor:
        yield vendor


def test_guide_leads_to_importing_cluster(place: Place, vendor: RunningSandbox) -> None:
    first, second = place.hosts
    user, program, units, secrets, migrate, start_first, start_second, check = guide_blocks()[:8]

    for host in place.hosts:
        host.follow(user)
    # The package index can be reached from this machine only, and once is enough.
    first.follow(program, with_internet=True)
    for host in place.hosts:
        host.follow([command for command in units if command != "systemctl daemon-reload"])
    for example, url in zip(URLS, place.urls, strict=True):
        assert sum(example in command for command in secrets) == 1
        secrets = [command.replace(example, url) for command in secrets]
    first.follow(secrets)
    # /etc is the first of the changed folders.
    second.machine.run("cp", "-a", f"{first.machine.folder}/upper-0/accession/secrets", "/etc/accession/")

    with vendor_at(place.network.own_address, vendor) as vendor_port:
        for host in place.hosts:
            host.machine.forward(vendor_port, place.network.own_address)
        first.follow(migrate)
        add_collection = (
            f"ACCESSION_ACCOUNT_KEY='{vendor.account.account_key}' accession collections add Alder"
            f" --library-id {vendor.account.library_id} --account-id {vendor.account.account_id}"
            f" --base-url http://localhost:{vendor_port}"
        )
        first.follow([add_collection])
        assert first.enable(start_first[0]) == [
            "accession-worker@1",
            "accession-worker@2",
            "accession-beat",
            "accession-web",
        ]
        second.enable(start_second[0])
        for workflow in SCHEDULED_WORKFLOWS:
            second.follow([f"accession import {workflow} --import-all --wait"])
        assert check[-1] == "accession doctor"
        first.follow(check[-1:])
        titles = json.loads(second.follow(["accession titles list --json"]))
        statistics = vendor.statistics()
        assert len(titles) == statistics["titles_purchased"] - statistics["unusable_records"]
