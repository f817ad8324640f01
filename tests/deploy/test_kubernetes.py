"""deploy/kubernetes: the API's own schemas, and that what the manifests name exists."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from shared.setting_problems import ENV_PREFIX
from shared.settings import Settings, load_settings
from tests.deploy.conftest import LiveWorker
from tests.deploy.live import status_of
from tests.deploy.manifests import (
    DEPLOY,
    dockerfile_environment,
    password_file,
    read_dockerfile,
    read_documents,
    read_yaml,
)

KUSTOMIZATION = read_yaml("kubernetes/kustomization.yaml")
OBJECTS = [item for file in KUSTOMIZATION["resources"] for item in read_documents(f"kubernetes/{file}")]
# The oldest that the schemas' package carries, and the newest.
VERSIONS = [kubernetes_validate.utils.all_versions()[0], kubernetes_validate.latest_version()]


def the(kind: str) -> dict[str, Any]:
    (found,) = [item for item in OBJECTS if item["kind"] == kind]
    return dict(found)


POD = the("Deployment")["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
PROBES = {name: CONTAINER[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}


def generated_settings() -> dict[str, str]:
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generator["literals"])


(AUTOSCALER,) = read_documents("kubernetes-autoscale/autoscaler.yaml")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_follows_the_kubernetes_schema(item: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(item, version, strict=True)


def test_schema_refuses_what_is_wrong() -> None:
    """Strict: an unknown field is an error, as it is to `kubectl apply`."""
    service = the("Service")
    service["spec"] = service["spec"] | {"selectors": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="selectors"):
        kubernetes_validate.validate(service, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("folder", ["kubernetes", "kubernetes-autoscale"])
def test_no_kustomization_is_inside_one_that_it_uses(folder: str) -> None:
    """kustomize takes that for a circle, and refuses it."""
    for resource in read_yaml(f"{folder}/kustomization.yaml")["resources"]:
        path = (DEPLOY / folder / resource).resolve()
        assert path.exists()
        assert not path.is_dir() or not (DEPLOY / folder).is_relative_to(path)


def test_every_manifest_is_in_the_kustomization() -> None:
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])


def test_settings_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Image, config map and container together are a valid configuration, without an unknown name."""
    monkeypatch.chdir(tmp_path)
    of_container = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
    of_container["SORTLINE_REDIS_PASSWORD_FILE"] = str(password_file(tmp_path))
    environment = dockerfile_environment("Dockerfile.cpu") | generated_settings() | of_container
    ours = {name: value for name, value in environment.items() if name.startswith(ENV_PREFIX)}
    assert {name.removeprefix(ENV_PREFIX).lower() for name in ours} <= set(Settings.model_fields)
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    assert load_settings().metrics_port == CONTAINER["ports"][0]["containerPort"]


def test_the_password_is_a_file_of_a_secret() -> None:
    """Not a variable: `kubectl describe`, crash reports and child processes show those."""
    values = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
    path = PurePosixPath(values["SORTLINE_REDIS_PASSWORD_FILE"])
    (mount,) = [mount for mount in CONTAINER["volumeMounts"] if mount["mountPath"] == str(path.parent)]
    (volume,) = [volume for volume in POD["spec"]["volumes"] if volume["name"] == mount["name"]]
    assert mount["readOnly"] is True
    (item,) = volume["secret"]["items"]
    assert item["path"] == path.name
    # The secret's files are root's; the container's user reads them through the group that fsGroup gives it.
    assert volume["secret"]["defaultMode"] == 0o440
    assert POD["spec"]["securityContext"]["fsGroup"] > 0
    readme = (DEPLOY / "README.md").read_text()
    assert f"create secret generic {volume['secret']['secretName']} --from-file={item['key']}=" in readme
    url = urlsplit(generated_settings()["SORTLINE_REDIS_URL"])
    assert (url.username, url.password) == ("worker", None)


def test_config_map_is_generated() -> None:
    (source,) = CONTAINER["envFrom"]
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert source["configMapRef"]["name"] == generator["name"]


def test_selectors_select_the_pods() -> None:
    labels = POD["metadata"]["labels"]
    (spread,) = POD["spec"]["topologySpreadConstraints"]
    selectors = (
        the("Deployment")["spec"]["selector"]["matchLabels"],
        the("Service")["spec"]["selector"],
        spread["labelSelector"]["matchLabels"],
    )
    for selector in selectors:
        assert selector.items() <= labels.items()


def test_ports_lead_to_the_metrics() -> None:
    (port,) = CONTAINER["ports"]
    (service_port,) = the("Service")["spec"]["ports"]
    assert service_port["targetPort"] == port["name"]
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    assert {probe["port"] for probe in PROBES.values()} == {port["name"]}
    exposed = [step.text for step in read_dockerfile("Dockerfile.cpu") if step.name == "EXPOSE"]
    assert exposed == [str(port["containerPort"])]


@pytest.mark.e2e
@pytest.mark.parametrize("probe", sorted(PROBES))
def test_probe_is_answered_by_a_worker(live_worker: LiveWorker, probe: str) -> None:
    assert status_of(f"http://{live_worker.address}{PROBES[probe]['path']}") == 200


@pytest.mark.e2e
def test_scraped_path_is_answered_by_a_worker(live_worker: LiveWorker) -> None:
    path = POD["metadata"]["annotations"]["prometheus.io/path"]
    assert status_of(f"http://{live_worker.address}{path}") == 200


def test_redis_away_does_not_restart_a_worker() -> None:
    """Only the readiness probe may depend on the server; the probes that kill ask whether the worker itself works."""
    assert PROBES["readinessProbe"]["path"] == "/readyz"
    assert PROBES["startupProbe"]["path"] == PROBES["livenessProbe"]["path"] == "/healthz"


def test_pod_is_confined() -> None:
    """The Pod Security Standard `restricted`, and more: the root file system can't be written."""
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] is True
    (user,) = [step.text for step in read_dockerfile("Dockerfile.cpu") if step.name == "USER"]
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}"
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert POD["spec"]["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & POD["spec"].keys()
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert all(volume.keys() - {"name"} <= allowed for volume in POD["spec"]["volumes"])
    assert "hostPort" not in CONTAINER["ports"][0]


def test_volumes_are_claimed_and_mounted() -> None:
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    store = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}["SORTLINE_MODEL_STORE"]
    models = mounts[str(store)]
    assert models["readOnly"] is True
    claim = volumes[models["name"]]["persistentVolumeClaim"]["claimName"]
    assert claim == the("PersistentVolumeClaim")["metadata"]["name"]


def test_threads_match_the_cpu_limit() -> None:
    cpu = CONTAINER["resources"]["limits"]["cpu"]
    settings = generated_settings()
    assert settings["SORTLINE_ENGINE_THREADS"] == settings["SORTLINE_DECODE_THREADS"] == cpu


def test_the_autoscaler_follows_the_kubernetes_schema() -> None:
    kubernetes_validate.validate(AUTOSCALER, VERSIONS[-1], strict=True)


def test_the_autoscaler_scales_the_workers_on_the_load_of_the_most_urgent_queue() -> None:
    deployment = the("Deployment")
    assert AUTOSCALER["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    ((metric,), queues) = AUTOSCALER["spec"]["metrics"], generated_settings()["SORTLINE_QUEUES"].split(",")
    assert metric["external"]["metric"]["selector"]["matchLabels"] == {"queue": queues[0]}
    assert metric["external"]["target"]["type"] == "Value", "the ratio would be divided by the number of pods"
    readme = (DEPLOY / "README.md").read_text()
    (adapter,) = [
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    ]
    (rule,) = adapter["externalRules"]
    assert rule["name"]["as"] == metric["external"]["metric"]["name"]
    recorded = [rule["record"] for group in read_yaml("prometheus/rules.yml")["groups"] for rule in group["rules"]]
    scaling = "sortline:queue_load_ratio:scaling"  # absent while the workers are suspended
    assert scaling in recorded
    assert re.findall(r"sortline:[\w:]+", rule["seriesQuery"] + rule["metricsQuery"]) == [scaling] * 2


def test_the_autoscaler_and_the_manifests_do_not_both_set_the_replicas() -> None:
    kustomization = read_yaml("kubernetes-autoscale/kustomization.yaml")
    assert kustomization["resources"] == ["../kubernetes", "autoscaler.yaml"]
    (patch,) = kustomization["patches"]
    assert yaml.safe_load(patch["patch"]) == [{"op": "remove", "path": "/spec/replicas"}]
    assert patch["target"] == {"kind": "Deployment", "name": the("Deployment")["metadata"]["name"]}
    assert the("Deployment")["spec"]["replicas"] >= 1, "the patch would fail"
