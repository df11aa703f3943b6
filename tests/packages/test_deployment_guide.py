"""The commands of docs/deployment.md that create the secrets of compose.yaml."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from cryptography.fernet import Fernet
from redis import Redis
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as BrokerConnectionError

from accession.core.settings import Settings
from accession.local.ports import free_port
from accession.local.valkey import _program as valkey_program
from tests.fixtures.waiting import wait_until
from tests.packages.documents import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())


def create_secrets(folder: Path) -> Path:
    """Run the commands that create the secrets, and return the folder with these."""
    text = (ROOT / "docs" / "deployment.md").read_text()
    (block,) = re.findall(r"```console\n( *\$ mkdir -m 700 secrets\n.*?)```", text, re.DOTALL)
    commands = [line.strip().removeprefix("$ ") for line in block.splitlines() if line.strip()]
    subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=folder, check=True)
    return folder / "secrets"


def test_commands_create_all_secrets_of_compose_file(tmp_path: Path) -> None:
    files = {path.name for path in create_secrets(tmp_path).iterdir()}

    assert files == COMPOSE["secrets"].keys()
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} == {f"secrets/{name}" for name in files}


def test_created_secrets_are_valid_settings(tmp_path: Path) -> None:
    secrets = create_secrets(tmp_path)
    settings = Settings(home=tmp_path, secrets_dir=secrets)

    assert settings.database_url is not None
    assert settings.secret_key is not None
    password = (secrets / "postgres_password").read_text()
    assert settings.database_url.get_secret_value() == f"postgresql://accession:{password}@postgres/accession"
    Fernet(settings.secret_key.get_secret_value())


def test_broker_of_compose_file_accepts_created_url(tmp_path: Path) -> None:
    secrets = create_secrets(tmp_path)
    port = free_port()
    _, *arguments = COMPOSE["services"]["valkey"]["command"]
    arguments = [word.replace("/run/secrets", str(secrets)) for word in arguments]
    options = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(tmp_path)]
    url = (secrets / "accession_redis_url").read_text().replace("@valkey:6379", f"@127.0.0.1:{port}")
    with subprocess.Popen([str(valkey_program()), *arguments, *options], stdout=subprocess.DEVNULL) as server:
        try:
            with Redis.from_url(url, retry=None) as client:
                wait_until(lambda: _responds(client))
                configuration = client.config_get("appendonly", "maxmemory-policy")
        finally:
            server.terminate()

    assert configuration == {"appendonly": "yes", "maxmemory-policy": "noeviction"}


def _responds(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except (BrokerConnectionError, BusyLoadingError):
        return False
