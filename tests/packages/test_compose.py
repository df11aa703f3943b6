"""compose.yaml: valid, and each service is confined and starts after those that it needs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packages.documents import ROOT, SECRETS, require_valid_arguments

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROCESSES = ("worker", "beat", "web")


def test_compose_file_follows_the_specification() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    arguments = ["--builtin-schema", "vendor.compose-spec", str(ROOT / "compose.yaml")]
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout) == (0, "ok -- validation done\n"), result.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_read_only_root_and_declared_parts(name: str) -> None:
    service = SERVICES[name]
    volumes = {volume.split(":")[0] for volume in service.get("volumes", ())}

    assert service["read_only"] is True
    assert volumes <= COMPOSE["volumes"].keys()
    assert set(service["secrets"]) <= COMPOSE["secrets"].keys()
    assert service.get("depends_on", {}).keys() <= SERVICES.keys()


@pytest.mark.parametrize("name", [*PROCESSES, "migrate"])
def test_service_runs_command_with_secrets_as_files(name: str) -> None:
    service = SERVICES[name]

    require_valid_arguments(service["command"])
    assert set(service["secrets"]) == SECRETS
    assert not SECRETS & {variable.lower() for variable in service["environment"]}
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])


@pytest.mark.parametrize("name", PROCESSES)
def test_process_starts_after_migration_and_broker(name: str) -> None:
    conditions = {other: value["condition"] for other, value in SERVICES[name]["depends_on"].items()}

    assert conditions == {"migrate": "service_completed_successfully", "valkey": "service_healthy"}
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_workers_can_be_scaled() -> None:
    """A name or a published port would exist once; workers of one host name take each other's messages."""
    assert not {"container_name", "hostname", "network_mode", "ports"} & SERVICES["worker"].keys()


def test_broker_persists_messages_and_evicts_none() -> None:
    command = " ".join(SERVICES["valkey"]["command"])

    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert SERVICES["valkey"]["volumes"] == ["valkey:/data"]
