"""Writes beside the tag of each image that we don't build its digest, as the registry has it now: `make pin-images`.

With the digest, a build or a start gets exactly these bytes, whatever the tag means by then. Run it again to move on to
what the tag means now, for example for security updates, and commit what it wrote.

The registries are asked by a tool that knows them: `docker buildx imagetools`, else skopeo. Either every image is
pinned, or no file is changed. `--check` asks nobody, and lists the images without a digest.

Exit codes: 0 all are pinned; 1 one is not (--check), or a registry could not be asked; 3 no tool is here.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

UNPINNED, NO_TOOL = 1, 3
TIMEOUT_S = 120
PROJECT = Path(__file__).resolve().parent.parent
FILES = (
    "deploy/compose.yaml",
    "deploy/Dockerfile.cpu",
    "deploy/Dockerfile.gpu",
    ".github/workflows/audit.yaml",
    ".github/workflows/ci.yaml",
)
# Where a file names an image: `image:` of Compose, `container:` of a workflow, and in a Dockerfile the syntax and the
# argument for the base.
REFERENCE = re.compile(
    r"(?m)^(?P<before>\s*image: |\s*container: |# syntax=|ARG \w+_IMAGE=)"
    r"(?P<tagged>[\w./-]+:[\w.-]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?(?=\s|$)"
)
OURS = "sortline:"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def main(arguments: list[str]) -> int:
    """Pin, or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="ask nobody; list the images without a digest")
    parser.add_argument("--project", type=Path, default=PROJECT, help="the checkout whose files are written")
    options = parser.parse_args(arguments)
    texts = {options.project / name: (options.project / name).read_text(encoding="utf-8") for name in FILES}
    if options.check:
        return check(texts)
    ask = registry_tool()
    if ask is None:
        return fail("neither `docker buildx` nor skopeo is here, which ask registries: install one.", NO_TOOL)
    try:
        digests = {tagged: ask(tagged) for tagged in sorted(images(texts))}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return fail(f"{error}. No file was changed.", UNPINNED)
    for tagged, digest in digests.items():
        print(f"{tagged}@{digest}")
    for path, text in texts.items():
        path.write_text(pinned(text, digests), encoding="utf-8")
    return 0


def fail(message: str, code: int) -> int:
    print(f"pin_images.py: {message}", file=sys.stderr)
    return code


def check(texts: dict[Path, str]) -> int:
    unpinned = {
        f"{path.name}: {found['tagged']}"
        for path, text in texts.items()
        for found in REFERENCE.finditer(text)
        if not found["digest"] and not found["tagged"].startswith(OURS)
    }
    print("\n".join(["These images have no digest:", *sorted(unpinned)] if unpinned else ["Every image has a digest."]))
    return UNPINNED if unpinned else 0


def images(texts: dict[Path, str]) -> set[str]:
    """The images of all files by name and tag, without those that we build."""
    named = {found["tagged"] for text in texts.values() for found in REFERENCE.finditer(text)}
    return {tagged for tagged in named if not tagged.startswith(OURS)}


def pinned(text: str, digests: dict[str, str]) -> str:
    """The same text with these digests beside their images, in place of others."""

    def write(found: re.Match[str]) -> str:
        digest = digests.get(found["tagged"])
        return found[0] if digest is None else f"{found['before']}{found['tagged']}@{digest}"

    return REFERENCE.sub(write, text)


def registry_tool() -> Callable[[str], str] | None:
    """What asks a registry for the digest of an image; None if no such tool is here.

    Both name the digest of the list of all platforms' images, which every platform can pull.
    """
    docker, skopeo = shutil.which("docker"), shutil.which("skopeo")
    if docker is not None and _run([docker, "buildx", "version"]).returncode == 0:
        return lambda tagged: _digest(
            tagged, [docker, "buildx", "imagetools", "inspect", tagged, "--format", "{{.Manifest.Digest}}"]
        )
    if skopeo is not None:
        return lambda tagged: _digest(
            tagged, [skopeo, "inspect", "--no-tags", "--format", "{{.Digest}}", f"docker://{tagged}"]
        )
    return None


def _digest(tagged: str, command: list[str]) -> str:
    done = _run(command)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"the digest of {tagged} can't be had: {last}")
    digest = done.stdout.strip()
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"the digest of {tagged} can't be had: {command[0]} answered {digest[:200]!r}")
    return digest


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S603  # known


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
