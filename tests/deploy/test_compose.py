"""deploy/'s Compose files and scrape configuration: the schema, and that what they name exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from shared.server.memory_options import MEMORY_OPTIONS
from shared.setting_problems import ENV_PREFIX
from shared.settings import Settings, load_settings
from tests.deploy.live import scrape_config
from tests.deploy.manifests import (
    COMPOSE_VARIABLE,
    DEPLOY,
    dockerfile_environment,
    password_file,
    read_compose,
    read_dockerfile,
    read_yaml,
)
from tests.kit import PROJECT, needed_tool

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "compose-spec.json").read_text())
FILES = ("compose.yaml", "compose.gpu.yaml")
COMPOSE = read_compose()
SERVICES = COMPOSE["services"]
CLIENTS = sorted(name for name, service in SERVICES.items() if "SORTLINE_REDIS_URL" in service.get("environment", {}))
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("sortline:"))


@pytest.mark.parametrize("file", FILES)
def test_follows_the_compose_specification(file: str) -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(read_compose(file))


def test_schema_refuses_what_is_wrong() -> None:
    """The schema is strict enough to be worth asking."""
    broken = read_compose()
    broken["services"]["worker"]["stop_grace_perod"] = "30s"
    with pytest.raises(jsonschema.ValidationError, match="stop_grace_perod"):
        jsonschema.Draft7Validator(SCHEMA).validate(broken)


@pytest.mark.parametrize("service", OURS)
def test_settings_are_settings(service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the image and the service set together is a valid configuration, without an unknown name."""
    monkeypatch.chdir(tmp_path)
    environment = dockerfile_environment("Dockerfile.cpu") | SERVICES[service].get("environment", {})
    ours = {name: value for name, value in environment.items() if name.startswith(ENV_PREFIX)}
    assert {name.removeprefix(ENV_PREFIX).lower() for name in ours} <= set(Settings.model_fields)
    if "SORTLINE_REDIS_PASSWORD_FILE" in ours:  # Compose mounts it
        ours["SORTLINE_REDIS_PASSWORD_FILE"] = str(password_file(tmp_path))
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    load_settings()


def test_variables_named_like_settings_are_settings() -> None:
    text = "".join((DEPLOY / file).read_text() for file in FILES)
    names = {name.removeprefix(ENV_PREFIX).lower() for name in re.findall(r"\bSORTLINE_[A-Z_]+\b", text)}
    assert names
    assert names <= set(Settings.model_fields)


def test_variables_are_documented_with_their_defaults() -> None:
    readme = (DEPLOY / "README.md").read_text()
    variables = {
        (match["name"], match["default"])
        for file in FILES
        for match in COMPOSE_VARIABLE.finditer((DEPLOY / file).read_text())
    }
    assert variables
    for name, default in variables:
        assert f"| `{name}` | `{default}`" in readme


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_service_can_be_left_alone(name: str) -> None:
    """Pinned, bounded, restarted, and with a health check: its own or its image's."""
    service = SERVICES[name]
    image, _, tag = service["image"].partition("@")[0].rpartition(":")
    assert image and tag and tag != "latest"
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert service["restart"] in ("unless-stopped", "no")
    assert service["logging"]["options"]["max-size"], "logs would fill the disk"
    if name not in OURS:
        assert service["healthcheck"]["test"]


def test_cameras_wait_for_a_worker_that_claims() -> None:
    """Compose does not restart unhealthy services. Being healthy only means that other services may start."""
    assert "/readyz" in SERVICES["worker"]["healthcheck"]["test"][-1]
    assert SERVICES["camera"]["depends_on"]["worker"]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_dependencies_are_services_that_can_be_waited_for(name: str) -> None:
    for other, dependency in SERVICES[name].get("depends_on", {}).items():
        on = SERVICES[other]
        if dependency["condition"] == "service_healthy":
            of_image = on["image"].startswith("sortline:") and not on.get("healthcheck", {}).get("disable")
            assert of_image or on["healthcheck"]["test"]
        else:
            assert dependency["condition"] == "service_completed_successfully"
            assert on["restart"] == "no", f"{other} would never be completed"


def test_only_grafana_is_published_and_only_here() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if service.get("ports")}
    assert published == {"grafana": ["127.0.0.1:3000:3000"]}
    assert read_compose(GRAFANA_PORT="8080")["services"]["grafana"]["ports"] == ["127.0.0.1:8080:3000"]


def test_queue_keeps_what_it_accepted() -> None:
    valkey = SERVICES["valkey"]
    options = dict(re.findall(r"--([\w-]+) (\S+)", valkey["command"]))
    assert options["appendonly"] == "yes"
    assert options["appendfsync"] == "everysec"
    assert options["maxmemory-policy"] == "noeviction"
    assert "queue:/data" in valkey["volumes"]
    # A rewrite of the append-only file forks: in the worst case every page exists twice.
    assert _bytes(valkey["deploy"]["resources"]["limits"]["memory"]) >= 2 * _bytes(options["maxmemory"])


def test_queue_has_the_options_that_keep_finished_jobs_small() -> None:
    """The embedded server has the same options; a test measures its bytes per job."""
    options = dict(re.findall(r"--([\w-]+) (\S+)", SERVICES["valkey"]["command"]))
    assert MEMORY_OPTIONS.items() <= options.items()


def test_threads_match_the_cpu_limit() -> None:
    worker = SERVICES["worker"]
    cpus = worker["deploy"]["resources"]["limits"]["cpus"]
    assert worker["environment"]["SORTLINE_ENGINE_THREADS"] == cpus
    assert worker["environment"]["SORTLINE_DECODE_THREADS"] == cpus
    gpu = read_compose("compose.gpu.yaml")["services"]["worker"]
    assert gpu["deploy"]["resources"]["limits"]["cpus"] == cpus, "the threads come from compose.yaml"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]  # of the container  # noqa: S108  # of the container
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & service.keys()
    if name not in OURS:  # a test of the Dockerfiles looks at the user of ours
        assert int(service["user"].partition(":")[0]) > 0


def test_only_clients_of_the_server_are_in_its_network_which_leads_nowhere() -> None:
    assert COMPOSE["networks"]["queue"] == {"internal": True}
    members = {name for name, service in SERVICES.items() if "queue" in service.get("networks", [])}
    assert members == {"valkey", *CLIENTS}
    assert SERVICES["valkey"]["networks"] == ["queue"]


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_log_in_as_a_user_of_their_own(name: str) -> None:
    """Each has the password of its user alone, in a file: environments and commands are shown by `docker inspect`."""
    environment, (secret,) = SERVICES[name]["environment"], SERVICES[name]["secrets"]
    url = urlsplit(environment["SORTLINE_REDIS_URL"])
    assert (url.username, url.password, url.hostname) == (secret, None, "valkey")
    assert secret == {"camera": "producer"}.get(name, name)
    assert environment["SORTLINE_REDIS_PASSWORD_FILE"] == f"/run/secrets/{secret}"
    assert COMPOSE["secrets"][secret] == {"file": f"./secrets/{secret}.password"}


def test_the_server_gets_its_users_and_the_password_of_its_health_check() -> None:
    valkey = SERVICES["valkey"]
    assert valkey["secrets"] == ["users", "health"]
    assert valkey["command"].split()[-2:] == ["--aclfile", "/run/secrets/users"]
    assert "--user health" in valkey["healthcheck"]["test"][-1]
    assert "/run/secrets/health" in valkey["healthcheck"]["test"][-1]


def test_models_are_read_only_and_where_the_image_looks() -> None:
    store = dockerfile_environment("Dockerfile.cpu")["SORTLINE_MODEL_STORE"]
    for name in ("model", "worker"):
        (mount,) = SERVICES[name]["volumes"]
        assert mount["target"] == store
        assert mount["read_only"] is True
        assert mount["bind"]["create_host_path"] is False


@pytest.mark.parametrize("file", FILES)
def test_builds_name_files_that_exist(file: str) -> None:
    for service in read_compose(file)["services"].values():
        if "build" in service:
            context = (DEPLOY / service["build"]["context"]).resolve()
            assert context == PROJECT
            assert (context / service["build"]["dockerfile"]).is_file()


def test_mounted_files_exist() -> None:
    binds = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if isinstance(volume, str) and volume.startswith(".")
    ]
    assert binds
    for source in binds:
        assert (DEPLOY / source).exists(), source


@pytest.mark.parametrize("name", OURS)
def test_commands_exist_and_take_their_options(name: str) -> None:
    """Asked for help with the service's own arguments, the command line knows every one of them."""
    from typer.testing import CliRunner

    import sortline.cli

    answer = CliRunner().invoke(sortline.cli.app, [*SERVICES[name]["command"], "--help"])
    assert answer.exit_code == 0, answer.output


def test_prometheus_finds_every_replica() -> None:
    (job,) = read_yaml("prometheus/prometheus.yml")["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    assert discovery["names"] == ["worker"]
    assert discovery["names"][0] in SERVICES
    assert set(SERVICES["worker"]["networks"]) & set(SERVICES["prometheus"]["networks"])
    exposed = [step.text for step in read_dockerfile("Dockerfile.cpu") if step.name == "EXPOSE"]
    assert exposed == [str(discovery["port"])]
    assert discovery["port"] == Settings.model_fields["metrics_port"].default


def test_promtool_accepts_the_scrape_configuration(tmp_path: Path) -> None:
    promtool = needed_tool("promtool", package="prometheus")
    generated = tmp_path / "prometheus.yml"
    generated.write_text(yaml.safe_dump(scrape_config("127.0.0.1:9108")))
    for config in (DEPLOY / "prometheus" / "prometheus.yml", generated):
        checked = subprocess.run([promtool, "check", "config", str(config)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def _bytes(size: Any) -> int:
    match = re.fullmatch(r"(\d+)(k|m|g)b?", str(size))
    assert match is not None, size
    return int(match[1]) * int(1024 ** (1 + "kmg".index(match[2])))
