"""What is checked before a commit and by the workflow is what `make lint` and .ci/run check."""

from __future__ import annotations

import fcntl
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit import PROJECT, needed_tool, wait_until

MARKED = "\npytestmark = pytest.mark.e2e\n"


def read_yaml(path: str) -> Any:
    return yaml.safe_load((PROJECT / path).read_text())


def test_the_hooks_run_what_make_lint_runs() -> None:
    lint = (PROJECT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    wanted = [command.removesuffix(" .") for command in re.findall(r"^\t\$\(BIN\)/(.+)$", lint, re.MULTILINE)]
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    run = [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in repository["hooks"]]
    assert run == wanted
    assert repository["repo"] == "local", "a hook from elsewhere needs the network, and another version"


def test_the_workflow_runs_what_a_change_must_pass() -> None:
    (job,) = read_yaml(".github/workflows/ci.yaml")["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert (PROJECT / ".ci" / "run").stat().st_mode & 0o111


def test_ruff_mypy_and_coverage_look_at_the_same_packages() -> None:
    project = (PROJECT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:source|files|known-first-party) = (\[.+\])$", project, re.MULTILINE)
    assert len(lists) == 3
    assert len({frozenset(re.findall(r'"(\w+)"', found)) for found in lists}) == 1


def test_end_to_end_tests_are_marked() -> None:
    """`make test-fast` leaves them out by their mark."""
    unmarked = [path.name for path in (PROJECT / "tests" / "e2e").glob("test_*.py") if MARKED not in path.read_text()]
    assert unmarked == []


@pytest.mark.parametrize(
    ("ci", "ends"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception), (None, pytest.skip.Exception)]
)
def test_a_missing_tool_fails_the_test_in_ci_and_skips_it_elsewhere(
    ci: str | None, ends: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workflow installs every tool. If a test could skip there, nobody would notice that it never runs."""
    either = (pytest.fail.Exception, pytest.skip.Exception)  # a skip that is not caught would skip this test too
    if ci is None:
        monkeypatch.delenv("CI", raising=False)
    else:
        monkeypatch.setenv("CI", ci)
    with pytest.raises(either, match="no-such-tool is not installed: apt-get install tools") as ended:
        needed_tool("no-such-tool", package="tools")
    assert ended.type is ends


def test_a_wait_in_vain_quotes_the_log_as_it_is_at_the_end(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"

    def never() -> bool:
        log.write_text("what went wrong meanwhile")
        return False

    with pytest.raises(AssertionError, match=r"not within 0 s: it happens; the log ends: what went wrong meanwhile"):
        wait_until(never, "it happens", timeout_s=0.0, log=log)


@pytest.mark.timing
def test_a_test_that_measures_time_runs_alone(running: Path) -> None:
    with running.open("a") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_other_tests_run_side_by_side(running: Path) -> None:
    with running.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
