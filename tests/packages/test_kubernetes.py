"""The manifests for Kubernetes: valid, confined, and consistent with each other."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.packages.documents import ROOT, SECRETS, require_valid_arguments

FOLDER = ROOT / "packaging" / "kubernetes"
# Kubernetes supports three minor versions. The oldest here has been out of support for a while.
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def read(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


(KUSTOMIZATION,) = read(FOLDER / "kustomization.yaml")
RESOURCES = [document for name in KUSTOMIZATION["resources"] for document in read(FOLDER / name)]
WORKLOADS = {each["metadata"]["name"]: each for each in RESOURCES if each["kind"] in ("Deployment", "Job")}


def find(kind: str, name: str) -> dict[str, Any]:
    (resource,) = (each for each in RESOURCES if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return resource


def pod_of(name: str) -> dict[str, Any]:
    pod: dict[str, Any] = WORKLOADS[name]["spec"]["template"]["spec"]
    return pod


def container_of(name: str) -> dict[str, Any]:
    (container,) = pod_of(name)["containers"]
    assert isinstance(container, dict)
    return container


def test_kustomization_has_all_manifests() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}

    assert set(KUSTOMIZATION["resources"]) == files
    assert {"accession-migrate", "accession-worker", "accession-beat", "accession-web"} == WORKLOADS.keys()


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_follow_schema_of_kubernetes(version: str) -> None:
    for resource in RESOURCES:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("name", WORKLOADS)
def test_pod_is_restricted(name: str) -> None:
    """These are the requirements of the Pod Security Standard `restricted`, and a read-only root."""
    pod, container = pod_of(name), container_of(name)

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("name", WORKLOADS)
def test_pod_ignores_variables_of_services(name: str) -> None:
    """For a service accession-web, Kubernetes would set ACCESSION_WEB_PORT to a URL."""
    assert pod_of(name)["enableServiceLinks"] is False


@pytest.mark.parametrize("name", WORKLOADS)
def test_pod_runs_command_with_settings_and_secrets(name: str) -> None:
    pod, container = pod_of(name), container_of(name)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (settings,) = KUSTOMIZATION["configMapGenerator"]
    images = {image["name"] for image in KUSTOMIZATION["images"]}

    require_valid_arguments(container["args"])
    assert container["image"] in images
    assert container["envFrom"] == [{"configMapRef": {"name": settings["name"]}}]
    assert mounts == {"secrets": "/secrets", "data": "/data", "tmp": "/tmp"}  # noqa: S108
    assert f"ACCESSION_SECRETS_DIR={mounts['secrets']}" in settings["literals"]
    assert volumes.keys() == mounts.keys()
    assert volumes["secrets"]["secret"]["secretName"] == "accession"


@pytest.mark.parametrize("name", sorted(WORKLOADS.keys() - {"accession-migrate"}))
def test_process_waits_for_migration(name: str) -> None:
    assert "--wait-for-schema" in container_of(name)["args"]


@pytest.mark.parametrize("name", sorted(WORKLOADS.keys() - {"accession-migrate"}))
def test_deployment_selects_its_own_pods(name: str) -> None:
    spec = WORKLOADS[name]["spec"]

    assert spec["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
    assert spec["template"]["metadata"]["labels"] == {"app.kubernetes.io/name": name}


def test_there_is_one_scheduler_at_a_time() -> None:
    spec = WORKLOADS["accession-beat"]["spec"]

    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_probes_of_dashboard_use_its_port() -> None:
    container = container_of("accession-web")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert ports == {"http": 8642}
    service = find("Service", "accession-web")["spec"]
    assert service["selector"] == {"app.kubernetes.io/name": "accession-web"}
    assert service["ports"][0]["targetPort"] == "http"


def test_number_of_workers_follows_the_queues() -> None:
    scaler = find("HorizontalPodAutoscaler", "accession-worker")["spec"]
    (metric,) = scaler["metrics"]

    assert scaler["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "accession-worker",
    }
    assert metric["external"]["metric"] == {"name": "accession_queue_messages"}
    # The autoscaler sets the number, which a deployment with `replicas` would reset.
    assert "replicas" not in WORKLOADS["accession-worker"]["spec"]
    processes = metric["external"]["target"]["averageValue"]
    assert f"--concurrency={processes}" in container_of("accession-worker")["args"]


def test_secrets_in_documentation_are_those_of_settings() -> None:
    text = (FOLDER / "worker.yaml").read_text()

    assert {name for name in SECRETS if name in text} == SECRETS
