"""Time that a worker has to finish its steps when it is stopped, in each deployment."""

import configparser
from typing import Any

import pytest
import yaml

from accession.local.servers import ServerUrls
from tests.packages.documents import ROOT


def unit_of_worker() -> configparser.SectionProxy:
    unit = configparser.RawConfigParser(strict=False)
    unit.read(ROOT / "packaging" / "systemd" / "accession-worker@.service")
    return unit["Service"]


def read_yaml(*path: str) -> Any:
    return yaml.safe_load(ROOT.joinpath(*path).read_text())


@pytest.fixture(scope="module")
def longest_step(servers: ServerUrls) -> int:
    """The seconds after which a step is ended; the module of the tasks needs a broker to be imported."""
    from accession.tasks.app import TIME_LIMIT_SECONDS

    return TIME_LIMIT_SECONDS


def test_systemd_waits_for_longest_step(longest_step: int) -> None:
    assert int(unit_of_worker()["TimeoutStopSec"]) > longest_step


def test_systemd_signals_the_parent_only() -> None:
    """The children of a worker would end their steps."""
    assert unit_of_worker()["KillMode"] == "mixed"


def test_compose_waits_for_longest_step(longest_step: int) -> None:
    period = read_yaml("compose.yaml")["services"]["worker"]["stop_grace_period"]

    assert int(period.removesuffix("s")) > longest_step


def test_kubernetes_waits_for_longest_step(longest_step: int) -> None:
    pod = read_yaml("packaging", "kubernetes", "worker.yaml")["spec"]["template"]["spec"]

    assert pod["terminationGracePeriodSeconds"] > longest_step
