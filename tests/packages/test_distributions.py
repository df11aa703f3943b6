"""Wheel and source distribution: complete, reproducible, and usable without the repository."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = metadata.version("accession-library")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files of a release, which `make dist` has checked."""
    folder = tmp_path_factory.mktemp("distributions")
    run(["make", "dist", f"DIST={folder}"], ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    return distributions / f"accession_library-{VERSION}-py3-none-any.whl"


def run(command: Iterable[str | Path], folder: Path) -> str:
    """Run a program in `folder`, without the settings and the programs of this environment."""
    path = os.environ["PATH"].split(os.pathsep)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ACCESSION_", "PYTHON"))
    }
    environment["PATH"] = os.pathsep.join(part for part in path if not part.startswith(str(ROOT)))
    completed = subprocess.run(
        list(command),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert completed.returncode == 0, completed.stdout
    return completed.stdout


def repository_files(folder: str = ".") -> set[str]:
    return set(run(["git", "ls-files", folder], ROOT).splitlines())


def test_wheel_from_source_distribution_is_the_same(wheel: Path, tmp_path: Path) -> None:
    """`make dist` builds the wheel from the source distribution; this one is built from the repository."""
    uv = ROOT / ".venv" / "bin" / "uv"
    options = ("--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", tmp_path)
    run([uv, "build", *options], ROOT)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_demo_runs_from_wheel_without_repository(wheel: Path, tmp_path: Path) -> None:
    """Templates, styles, migrations and the data of the simulated vendor are in the wheel."""
    # With hashes, pip would require that of the wheel, too.
    lock = (ROOT / "requirements" / "run.txt").read_text().splitlines()
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(line.removesuffix(" \\") for line in lock if "==" in line))
    programs, empty = tmp_path / "venv" / "bin", tmp_path / "empty"
    empty.mkdir()
    run([sys.executable, "-m", "venv", programs.parent], tmp_path)
    run([programs / "pip", "install", "--quiet", "--constraint", constraints, wheel], empty)
    output = run([programs / "accession", "demo", "--titles", "100"], empty)
    assert "Titles that agree with the vendor" in output
    assert list(empty.iterdir()) == []


def test_wheel_contains_every_file_of_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.removeprefix("src/") for name in repository_files("src/accession")} - names == set()


def test_source_distribution_contains_the_repository(distributions: Path) -> None:
    with tarfile.open(distributions / f"accession_library-{VERSION}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert repository_files() - names == set()


def test_description_has_no_link_into_the_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        description = archive.read(f"accession_library-{VERSION}.dist-info/METADATA").decode()
    assert "# Accession" in description
    assert "](" not in description


def test_sbom_lists_wheel_and_locked_packages(distributions: Path, wheel: Path) -> None:
    document = json.loads((distributions / wheel.with_suffix(".spdx.json").name).read_text())
    assert document["spdxVersion"] == "SPDX-2.3"
    packages = {package["name"]: package for package in document["packages"]}
    assert packages["accession-library"]["licenseDeclared"] == "Apache-2.0"
    assert packages["accession-library"]["packageFileName"] == wheel.name
    assert packages["kombu"]["versionInfo"] == metadata.version("kombu")
    dependencies = {
        (relationship["spdxElementId"], relationship["relatedSpdxElement"])
        for relationship in document["relationships"]
        if relationship["relationshipType"] == "DEPENDS_ON"
    }
    assert ("SPDXRef-Package-accession-library", "SPDXRef-Package-celery") in dependencies
    assert ("SPDXRef-Package-celery", "SPDXRef-Package-kombu") in dependencies
