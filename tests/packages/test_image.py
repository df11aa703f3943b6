"""The image of containers, built from the Dockerfile and run with a read-only root file system."""

import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.images import Container, Images, missing_requirement
from tests.packages.documents import ROOT

BASE, IMAGE = "localhost/debian-with-python", "localhost/accession"
USER = 10001
DATABASE_URL, REDIS_URL = "postgresql://accession@database/accession", "redis://broker:6379/0"
WRITABLE = ("/tmp", "/data")  # noqa: S108
PROBE = "celery --app accession.tasks.app inspect --timeout 10 ping"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """The image and its base, which need 3 GB until the tests end."""
    if missing := missing_requirement():
        pytest.skip(f"THE IMAGE IS NEITHER BUILT NOR RUN HERE: this machine lacks {missing}")
    storage = tmp_path_factory.mktemp("images")
    try:
        images = Images(storage)
        images.make_base(BASE)
        images.build(IMAGE, ROOT, BASE)
        yield images
    finally:
        shutil.rmtree(storage)


@pytest.fixture(scope="module")
def container(images: Images) -> Iterator[Container]:
    with images.container(IMAGE) as container:
        yield container


@pytest.fixture
def volumes(tmp_path: Path) -> Mapping[Path, str]:
    """Folders of the test that the container may write to."""
    volumes = {tmp_path / path.strip("/"): path for path in WRITABLE}
    for folder in volumes:
        folder.mkdir(mode=0o700)
        shutil.chown(folder, USER, USER)
    return volumes


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Folder with secrets, which name servers that do not exist."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "accession_database_url").write_text(DATABASE_URL)
    (folder / "accession_redis_url").write_text(REDIS_URL)
    return folder


def healthcheck(images: Images) -> str:
    """Return the command of the image's health check."""
    configuration: dict[str, Any] = images.configuration(IMAGE)
    kind, *command = configuration["Healthcheck"]["Test"]
    assert kind == "CMD"
    return shlex.join(command)


def test_image_runs_program_as_unprivileged_user(images: Images) -> None:
    configuration = images.configuration(IMAGE)

    assert configuration["User"] == f"{USER}:{USER}"
    assert configuration["Entrypoint"] == ["accession"]
    assert configuration["Volumes"].keys() == {"/data"}


def test_image_has_no_build_tools(container: Container) -> None:
    tools = ("gcc", "cc", "make", "uv", "hatchling")
    completed = container.run("sh", "-c", f"command -v {' '.join(tools)}; ls -A /opt/accession/bin")

    assert "accession" in completed.output.splitlines()
    assert not {"pip", *tools} & {Path(line).name for line in completed.output.splitlines()}


def test_user_can_write_to_volumes_only(container: Container, volumes: Mapping[Path, str]) -> None:
    places = ("/", "/opt/accession", "/etc", "/var/tmp", *WRITABLE)  # noqa: S108
    script = f"for place in {' '.join(places)}; do touch $place/file && echo $place; done"
    completed = container.run("sh", "-c", script, volumes=volumes)

    assert [line for line in completed.output.splitlines() if line in places] == list(WRITABLE)


def test_demo_runs_with_read_only_root(
    container: Container, volumes: Mapping[Path, str], secrets: Path
) -> None:
    """The demo uses servers of its own, whatever servers the secrets name."""
    completed = container.run(
        *("accession", "demo", "--titles", "50"),
        volumes={**volumes, secrets: "/run/secrets"},
        ACCESSION_PURCHASE_WINDOW="month",
    )

    assert completed.exit_code == 0, completed.output
    assert "Titles that agree with the vendor" in completed.output


def test_secrets_are_read_from_files(container: Container, secrets: Path) -> None:
    completed = container.run("accession", "env", volumes={secrets: "/run/secrets"})

    assert f"ACCESSION_DATABASE_URL={DATABASE_URL}\n" in completed.output
    assert f"ACCESSION_REDIS_URL={REDIS_URL}\n" in completed.output


def test_probes_find_running_processes_healthy(
    images: Images, container: Container, volumes: Mapping[Path, str]
) -> None:
    """The probe is that of compose.yaml and of the manifests, but for the name of the worker."""
    script = f"""
        accession up --detach && eval "$(accession env | sed 's/^/export /')" || exit 1
        {healthcheck(images)} && echo the dashboard is healthy
        {PROBE} && echo the worker is healthy
        accession down
    """
    output = container.run("sh", "-c", script, volumes=volumes).output

    assert "the dashboard is healthy" in output, output
    assert "the worker is healthy" in output, output


def test_health_check_fails_without_dashboard(images: Images, container: Container) -> None:
    assert container.run("sh", "-c", f"{healthcheck(images)} || echo unhealthy").output.endswith(
        "unhealthy\n"
    )
