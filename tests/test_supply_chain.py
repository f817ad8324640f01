"""What comes from elsewhere: `make audit`, `make sbom`, the resolver of `make lock`, and what the workflows may do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.kit import PATIENCE_S, PROJECT, needed_tool

WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yaml"))
LOCKS = {"sortline-worker": "worker.lock", "sortline-gpu": "gpu.lock"}
SOUND = {"name": "sound", "version": "1.0", "vulns": []}
WEAK = {"name": "weak", "version": "2.0", "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "skipped", "skip_reason": "Dependency not found and could not be audited: skipped (3.0)"}


def audit(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    """requirements/audit.py with this program in the place of pip-audit."""
    (tmp_path / "pip_audit.py").write_text(program)
    return subprocess.run(
        [sys.executable, PROJECT / "requirements" / "audit.py", "--vulnerability-service=osv"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("packages", "code", "printed", "said"),
    [
        ([SOUND], 0, "1 of 1 packages looked up, 0 with known", ""),
        ([SOUND, WEAK], 1, "weak 2.0: PYSEC-2026-1, mended in 2.1", ""),
        ([SOUND, SKIPPED], 3, "1 of 2 packages looked up", "Not audited: skipped. The first reason: Dependency not"),
        ([SKIPPED, WEAK], 1, "weak 2.0: PYSEC-2026-1", "Not audited: skipped."),
        ([], 3, "0 of 0 packages", ""),
    ],
)
def test_an_audit_that_could_not_ask_is_not_clean(
    tmp_path: Path, packages: list[dict[str, Any]], code: int, printed: str, said: str
) -> None:
    """pip-audit itself ends with 0 and says that there is nothing, also if it could look up no package at all."""
    done = audit(tmp_path, f"print({json.dumps({'dependencies': packages})!r})")
    assert done.returncode == code, done.stderr
    assert printed in done.stdout
    assert said in done.stderr


def test_an_audit_that_was_cut_off_says_why(tmp_path: Path) -> None:
    done = audit(tmp_path, "raise ConnectionError('no route to the database')")
    assert done.returncode == 3
    assert "Not audited: pip-audit gave no answer: ConnectionError: no route to the database" in done.stderr


def test_the_audit_looks_at_every_lock_file_by_digest(tmp_path: Path) -> None:
    done = audit(tmp_path, "import sys; sys.exit(' '.join(sys.argv[1:]))")
    options = done.stderr.split("gave no answer: ")[1].split()
    assert {"--disable-pip", "--require-hashes", "--format=json", "--vulnerability-service=osv"} <= set(options)
    audited = {Path(option.partition("=")[2]) for option in options if option.startswith("--requirement=")}
    assert audited == set((PROJECT / "requirements").glob("*.lock"))


def test_pip_audit_reads_the_lock_files() -> None:
    """The program itself, asking nobody: it finds every package of the smallest lock file."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--disable-pip",
        "--require-hashes",
        "--dry-run",
        "--progress-spinner=off",
    ]
    done = subprocess.run(
        [*command, f"--requirement={PROJECT / 'requirements' / 'worker.lock'}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"would have audited \d\d+ packages", done.stderr), done.stderr


def locked(lock: str) -> dict[str, tuple[str, set[str]]]:
    """The packages of a lock file: version and digests by name."""
    entries = re.split(r"(?m)^(?=[a-z0-9])", (PROJECT / "requirements" / lock).read_text())
    found = {}
    for entry in entries:
        if match := re.match(r"([a-z0-9-]+)(?:\[[^]]*\])?==([\w.+!]+)", entry):
            found[match[1]] = (match[2], set(re.findall("sha256:([0-9a-f]{64})", entry)))
    return found


def make_bills(folder: Path) -> dict[str, str]:
    """`make sbom` with the tools of the environment that runs this test, which must not be made anew."""
    needed_tool("make", package="make")
    stamp = ".venv/.installed"
    done = subprocess.run(
        [
            "make",
            f"--old-file={stamp}",
            f"BIN={Path(sys.executable).parent}",
            f"STAMP={stamp}",
            f"BUILD={folder}",
            "sbom",
        ],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert re.search(r"sortline-gpu\.cdx\.json: \d\d+ packages of gpu\.lock\.$", done.stdout.rstrip()), done.stdout
    return {path.name.removesuffix(".cdx.json"): path.read_text() for path in folder.glob("*.cdx.json")}


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_bills(tmp_path_factory.mktemp("build"))


@pytest.mark.slow
@pytest.mark.parametrize("name", LOCKS)
def test_the_bill_of_materials_is_valid_and_has_every_package_with_its_digests(
    bills: dict[str, str], name: str
) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bills[name]) is None
    bill = json.loads(bills[name])
    listed = {
        component["name"]: (
            component["version"],
            {found["content"] for reference in component["externalReferences"] for found in reference["hashes"]},
        )
        for component in bill["components"]
    }
    assert len(listed) > 20
    assert listed == locked(LOCKS[name])
    assert bill["metadata"]["component"]["name"] == "sortline"
    descriptions = [component["description"] for component in bill["components"]]
    assert [text for text in descriptions if len(text) > 200 or "--hash" in text or text.endswith(("\\", " "))] == []


@pytest.mark.slow
def test_the_bill_of_materials_is_the_same_each_time(bills: dict[str, str], tmp_path: Path) -> None:
    assert make_bills(tmp_path) == bills


def test_the_resolver_and_the_tools_come_from_the_lock_file() -> None:
    """`make lock` resolves with the uv of .venv, which dev.lock pins by digest."""
    makefile = (PROJECT / "Makefile").read_text()
    assert "LOCK := $(BIN)/uv pip compile" in makefile
    assert {"uv", "pip-audit", "cyclonedx-bom", "ruff"} <= locked("dev.lock").keys()
    assert all(digests for _, digests in locked("dev.lock").values())


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_only_read_and_run_what_is_pinned(workflow: Path) -> None:
    text, parsed = workflow.read_text(), yaml.safe_load(workflow.read_text())
    assert parsed["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text
    assert "secrets." not in text
    for job in parsed["jobs"].values():
        assert "permissions" not in job
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}|", step.get("uses", ""))
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
            # What somebody writes into a title or a branch's name would be run by the shell.
            assert "${{" not in step.get("run", "")


def test_pinned_actions_name_their_version_for_people() -> None:
    lines = [line for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert lines
    assert all(re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in lines)
