"""deploy/pin_images.py on copies of the files, with a registry's tool of the test's own."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import COMPOSE_VARIABLE
from tests.kit import PATIENCE_S, PROJECT

SCRIPT = PROJECT / "deploy" / "pin_images.py"
FILES = [
    "deploy/compose.yaml",
    "deploy/Dockerfile.cpu",
    "deploy/Dockerfile.gpu",
    *(str(path.relative_to(PROJECT)) for path in sorted((PROJECT / ".github" / "workflows").glob("*.yaml"))),
]
# A registry in which the digest of an image follows from its name and `tags`. Each call is noted.
DOCKER = """#!/bin/sh
[ "$1 $2" = "buildx version" ] && exit {buildx}
echo "$@" >>{folder}/asked
[ "$1 $2 $3 $5 $6" = "buildx imagetools inspect --format {{{{.Manifest.Digest}}}}" ] || exit 64
image=$4
{answer}
"""
SKOPEO = """#!/bin/sh
echo "$@" >>{folder}/asked
[ "$1 $2 $3 $4" = "inspect --no-tags --format {{{{.Digest}}}}" ] || exit 64
image=${{5#docker://}}
{answer}
"""
DIGEST = "echo sha256:$(printf %s \"$image {tags}\" | sha256sum | cut -d ' ' -f 1)"


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """A copy of the files that name images, and a folder of programs."""

    folder: Path

    def add_tool(self, name: str, text: str, *, answer: str = DIGEST.format(tags="today"), buildx: int = 0) -> None:
        path = self.folder / "bin" / name
        path.write_text(text.format(folder=self.folder, answer=answer, buildx=buildx))
        path.chmod(0o755)

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, SCRIPT, "--project", self.folder, *options],
            env={"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def texts(self) -> list[str]:
        return [(self.folder / name).read_text() for name in FILES]

    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """The files without any digest."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(_without_digests(text))
    (tmp_path / "bin").mkdir()
    return Checkout(folder=tmp_path)


def _without_digests(text: str) -> str:
    return re.sub(r"@sha256:[0-9a-f]{64}", "", text)


def digest_of(image: str, tags: str = "today") -> str:
    return "sha256:" + hashlib.sha256(f"{image} {tags}".encode()).hexdigest()


def images_of(folder: Path) -> set[str]:
    """What the files name as images, read by YAML's rules and Docker's, apart from ours."""
    compose = yaml.safe_load(COMPOSE_VARIABLE.sub("1", (folder / "deploy/compose.yaml").read_text()))
    found = {service["image"] for service in compose["services"].values()}
    for workflow in (folder / ".github" / "workflows").glob("*.yaml"):
        found |= {job["container"] for job in yaml.safe_load(workflow.read_text())["jobs"].values()}
    for name in ("cpu", "gpu"):
        lines = (folder / f"deploy/Dockerfile.{name}").read_text().splitlines()
        found |= {line.partition("=")[2] for line in lines if line.startswith(("ARG ", "# syntax="))}
    return {image for image in found if not image.startswith("sortline:")}


@pytest.mark.parametrize(("name", "text"), [("docker", DOCKER), ("skopeo", SKOPEO)])
def test_every_image_gets_the_digest_of_its_tag(checkout: Checkout, name: str, text: str) -> None:
    before = images_of(checkout.folder)
    checkout.add_tool(name, text)
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert images_of(checkout.folder) == {f"{image}@{digest_of(image)}" for image in before}
    assert len(checkout.asked()) == len(before), "each is asked for once"
    assert checkout.run("--check").returncode == 0


def test_nothing_but_digests_is_written(checkout: Checkout) -> None:
    before = checkout.texts()
    checkout.add_tool("docker", DOCKER)
    checkout.run()
    assert [_without_digests(text) for text in checkout.texts()] == before


def test_a_later_run_follows_the_tags(checkout: Checkout) -> None:
    images = images_of(checkout.folder)
    checkout.add_tool("docker", DOCKER)
    checkout.run()
    once = checkout.texts()
    checkout.run()
    assert checkout.texts() == once
    checkout.add_tool("docker", DOCKER, answer=DIGEST.format(tags="moved"))
    checkout.run()
    assert images_of(checkout.folder) == {f"{image}@{digest_of(image, 'moved')}" for image in images}


def test_skopeo_is_asked_where_docker_has_no_buildx(checkout: Checkout) -> None:
    checkout.add_tool("docker", DOCKER, buildx=1)
    checkout.add_tool("skopeo", SKOPEO)
    assert checkout.run().returncode == 0
    assert all(line.startswith("inspect") for line in checkout.asked())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            f"case $image in valkey/*) echo no route to host >&2; exit 1;; esac; {DIGEST.format(tags='today')}",
            "no route",
        ),
        ("echo latest", "answered 'latest'"),
        ("exit 0", "answered ''"),
    ],
)
def test_a_registry_that_gives_no_digest_changes_no_file(checkout: Checkout, answer: str, said: str) -> None:
    before = checkout.texts()
    checkout.add_tool("docker", DOCKER, answer=answer)
    done = checkout.run()
    assert done.returncode == 1
    assert said in done.stderr
    assert "No file was changed." in done.stderr
    assert checkout.texts() == before


def test_says_which_tools_it_needs(checkout: Checkout) -> None:
    done = checkout.run()
    assert done.returncode == 3
    assert "neither `docker buildx` nor skopeo is here" in done.stderr


def test_check_asks_nobody_and_names_what_has_no_digest(checkout: Checkout) -> None:
    checkout.add_tool("docker", DOCKER)
    done = checkout.run("--check")
    assert done.returncode == 1
    assert {line.rpartition(" ")[2] for line in done.stdout.splitlines()[1:]} == images_of(checkout.folder)
    assert not (checkout.folder / "asked").exists()


def test_every_file_that_names_an_image_is_known() -> None:
    """A new Compose file or Dockerfile must be added to the script."""
    text = SCRIPT.read_text()
    names: Sequence[Path] = [*(PROJECT / "deploy").glob("Dockerfile.*"), *(PROJECT / "deploy").glob("compose*.yaml")]
    for path in names:
        foreign = [line for line in path.read_text().splitlines() if "image: " in line and "sortline:" not in line]
        if foreign or (path.name.startswith("Dockerfile") and path.suffix != ".dockerignore"):
            assert f'"deploy/{path.name}"' in text
    assert [name for name in FILES if f'"{name}"' not in text] == []
