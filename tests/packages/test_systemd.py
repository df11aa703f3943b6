"""The units of systemd: valid, and confined as far as `systemd-analyze security` can tell."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from accession.core.settings import ENV_PREFIX, Settings
from tests.packages.documents import ROOT, require_valid_arguments

FOLDER = ROOT / "packaging" / "systemd"
PROGRAM = "/opt/accession/bin/accession"
SERVICES = ("accession-worker@1.service", "accession-beat.service", "accession-web.service")
# In tenths, from 0 to 100; systemd calls up to 1.9 "OK". No service is without network and without a root.
EXPOSURE_LIMIT = 15


class Unit(configparser.RawConfigParser):
    """A unit file; of a key that occurs several times, it has the last value only."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, interpolation=None)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read_string(path.read_text())


def file_of(name: str) -> Path:
    return FOLDER / name.replace("@1", "@")


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the units, whose program exists: `systemd-analyze` looks for it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("THE UNITS ARE NOT CHECKED HERE: this machine lacks the package systemd")
    folder = tmp_path_factory.mktemp("units")
    for name in ("accession.target", *SERVICES):
        (folder / name).write_text(file_of(name).read_text().replace(PROGRAM, "/bin/true"))
    return folder


def analyze(*arguments: str | Path) -> None:
    completed = subprocess.run(
        ["systemd-analyze", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert completed.returncode == 0, completed.stdout


def test_systemd_accepts_the_units(units: Path) -> None:
    analyze("verify", "--man=no", "--recursive-errors=yes", *(units / name for name in SERVICES))
    analyze("verify", "--man=no", "--recursive-errors=yes", units / "accession.target")


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_confined(units: Path, name: str) -> None:
    analyze("security", "--no-pager", "--offline=true", f"--threshold={EXPOSURE_LIMIT}", units / name)


@pytest.mark.parametrize("name", SERVICES)
def test_service_runs_command_and_restarts(name: str) -> None:
    service = Unit(file_of(name))["Service"]
    program, *arguments = service["ExecStart"].split()

    require_valid_arguments(arguments)
    assert program == PROGRAM
    assert "--wait-for-schema" in arguments
    assert (service["Restart"], service["User"]) == ("always", "accession")


@pytest.mark.parametrize("name", SERVICES)
def test_service_starts_and_stops_with_target(name: str) -> None:
    unit = Unit(file_of(name))

    assert unit["Install"]["WantedBy"] == "accession.target"
    assert unit["Unit"]["PartOf"] == "accession.target"


def test_settings_of_services_name_existing_variables() -> None:
    lines = (FOLDER / "accession.env").read_text().splitlines()
    names = {line.lstrip("#").partition("=")[0] for line in lines if "=" in line}

    assert names <= {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert "ACCESSION_SECRETS_DIR=/etc/accession/secrets" in lines


def test_command_uses_settings_of_services(tmp_path: Path) -> None:
    """The script gets a settings file and a program of the test, and runs as the user of the test."""
    settings = tmp_path / "accession.env"
    settings.write_text("# Settings\nACCESSION_HOME=/var/lib/accession\n")
    script = (FOLDER / "accession").read_text()
    for old, new in (
        ("/etc/accession/accession.env", str(settings)),
        ("runuser -u accession -- /opt/accession/bin/accession", "printenv"),
    ):
        assert script.count(old) == 1
        script = script.replace(old, new)

    completed = subprocess.run(
        ["sh", "-c", script, "accession", "ACCESSION_HOME"], capture_output=True, text=True
    )

    assert completed.stdout == "/var/lib/accession\n"
