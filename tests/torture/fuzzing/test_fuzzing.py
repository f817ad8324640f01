"""Fuzzing: a short run finds nothing, and whatever goes wrong is kept."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.kit import PROJECT, wait_until
from torture.campaigns.fuzz import Fuzzer
from torture.fuzzing import findings, targets
from torture.fuzzing.findings import Finding, FindingsFolder, Status, Watch
from torture.fuzzing.mutator import MAX_BYTES, Mutator
from torture.fuzzing.program import fuzz_plain
from torture.fuzzing.targets import TARGETS, Target, run_job
from torture.plant.proc_files import proc_status_bytes

SEED = 16
# A number of inputs, and no time: the same inputs in every run.
RUNS = {"decoder": 1_500, "job": 3_000}


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_finds_nothing(name: str, tmp_path: Path) -> None:
    assert fuzz_plain(name, seed=SEED, folder=tmp_path, seconds=600, runs=RUNS[name]) == RUNS[name]
    assert FindingsFolder(tmp_path / "findings").kinds() == []


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_depend_on_the_seed_and_number_alone(name: str) -> None:
    target = TARGETS[name]
    one, same, other = (Mutator(target.seeds(), target.tokens, seed=seed) for seed in (1, 1, 2))
    numbers = range(len(target.seeds()), len(target.seeds()) + 50)
    assert [one.input_of(number) for number in reversed(numbers)] == [same.input_of(number) for number in numbers][::-1]
    assert [one.input_of(number) for number in numbers] != [other.input_of(number) for number in numbers]
    assert all(len(one.input_of(number)) <= MAX_BYTES for number in numbers)
    assert [one.input_of(number) for number in range(len(target.seeds()))] == list(target.seeds())


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_used_and_not_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise mutations would never come further than the first check."""
    refused: list[Exception] = []

    def note(*_: Any, error: Exception, **__: Any) -> Any:
        refused.append(error)
        return SimpleNamespace(result=None)

    monkeypatch.setattr(targets, "Refused", note)
    monkeypatch.setattr(targets, "decide", lambda verdict: verdict)
    monkeypatch.setattr(targets, "REASONS", frozenset[str]())  # a refused image would be a wrong answer
    for data in TARGETS[name].seeds():
        TARGETS[name].run(data)
    assert refused == []


# what is found ──────────────────────────────────────────────────────────────────────────────────────


def target(run: Any, **bounds: Any) -> Target:
    return dataclasses.replace(TARGETS["job"], run=run, **bounds)


def fail(data: bytes) -> None:
    raise KeyError(data)


def burn(data: bytes) -> None:
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass


@pytest.mark.parametrize(
    ("run", "bounds", "kind"),
    [
        (fail, {}, "KeyError at test_fuzzing.py"),
        (burn, {"max_s": 0.01}, "slow"),
        (lambda data: None, {"max_s": 60.0}, None),
    ],
)
def test_what_counts_as_a_finding(run: Any, bounds: dict[str, Any], kind: str | None) -> None:
    finding = Watch(target(run, **bounds)).run(b"x")
    assert (finding is None) == (kind is None)
    assert finding is None or finding.kind.startswith(str(kind))


def test_an_input_that_takes_much_memory_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's count never falls, so it is replaced: an earlier test may have taken more."""
    counts = iter([10_000_000, 13_000_001, 13_000_001, 16_000_001])
    monkeypatch.setattr(findings, "_most_bytes", lambda: next(counts))
    watch = Watch(target(lambda data: None, max_s=60.0, max_bytes=3_000_000))
    finding = watch.run(b"x")
    assert finding is not None
    assert finding == ("large", "the process grew by 3,000,001 bytes, the bound is 3,000,000")
    assert watch.run(b"x") is None


def test_the_count_of_memory_is_the_most_that_this_process_took() -> None:
    """Up to a few pages: the kernel adds those that each thread takes late, and to one count before the other."""
    taken_bytes = proc_status_bytes(os.getpid(), "VmRSS")
    assert findings._most_bytes() > 0.9 * taken_bytes > 10_000_000


def test_a_finding_is_kept_once_with_the_command_that_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "TARGETS", {"job": target(fail)})
    fuzz_plain("job", seed=SEED, folder=tmp_path, seconds=600, runs=20)
    (kind,) = FindingsFolder(tmp_path / "findings").kinds()
    (kept,) = (tmp_path / "findings").glob("*.bin")
    assert kind.startswith("job: KeyError at test_fuzzing.py")
    assert f"seed {SEED}; repeat with: python -m torture.fuzzing.program job replay {kept}" in kind
    assert kept.read_bytes() == TARGETS["job"].seeds()[0]


@pytest.mark.e2e
def test_the_command_of_a_finding_repeats_it(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(TARGETS["job"].seeds()[0])
    command = [sys.executable, "-m", "torture.fuzzing.program", "job", "replay", str(file)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "no finding\n"), done.stderr


@pytest.mark.e2e
def test_an_input_that_ends_the_process_is_kept_and_the_run_goes_on(tmp_path: Path) -> None:
    plant: Any = SimpleNamespace(options=SimpleNamespace(seed=SEED))
    fuzzer = Fuzzer(plant, "job", way="plain", folder=tmp_path, until=time.monotonic() + 3600)
    fuzzer.start()
    try:
        wait_until(lambda: fuzzer.runs > 100, "it runs inputs")
        assert fuzzer._process is not None
        fuzzer._process.signal(signal.SIGSEGV)
        fuzzer._process.wait()
        assert not fuzzer.has_ended()
        (kind,) = FindingsFolder(tmp_path / "findings").kinds()
        assert "SIGSEGV" in kind
        (text,) = (tmp_path / "findings").glob("*.txt")
        assert "processor time" not in text.read_text()
        before = fuzzer.runs
        wait_until(lambda: fuzzer.runs > before, "another process goes on")
    finally:
        fuzzer.kill()


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (-signal.SIGPROF, "the process ended: SIGPROF", "It took too much processor time.\n"),
        (-signal.SIGSEGV, "the process ended: SIGSEGV", "\n"),
        (1, "the process ended: exit code 1", "\n"),
        (None, "the process did not end", "\n"),
    ],
)
def test_a_finding_says_how_the_process_ended(code: int | None, kind: str, text: str, tmp_path: Path) -> None:
    plant: Any = SimpleNamespace(options=SimpleNamespace(seed=SEED))
    Fuzzer(plant, "job", way="plain", folder=tmp_path, until=0.0)._keep(code)
    (kept,) = (tmp_path / "findings").glob("*.txt")
    assert kept.read_text().startswith(f"{kind}\n")
    assert kept.read_text().endswith(f"\n\n{text}")


def test_the_status_outlives_its_writer(tmp_path: Path) -> None:
    status = Status(tmp_path / "status")
    assert status.read() == (0, b"")
    status.write(1, b"a long input")
    status.write(2, b"short")
    assert Status(tmp_path / "status").read() == (2, b"short")


def test_very_many_findings_do_not_fill_the_disk(tmp_path: Path) -> None:
    folder = FindingsFolder(tmp_path)
    for number in range(60):
        folder.add("job", b"x", Finding(f"kind {number}", ""), seed=1)
    assert len(folder.kinds()) == 50


# what was found ─────────────────────────────────────────────────────────────────────────────────────


def test_half_of_a_surrogate_pair_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was admitted: json.loads takes it, and nothing could write the result."""
    refused: list[str] = []

    def note(*, claimed: object, error: Exception) -> Any:
        refused.append(str(error))
        return SimpleNamespace(result=None)

    monkeypatch.setattr(targets, "Refused", note)
    monkeypatch.setattr(targets, "decide", lambda verdict: verdict)
    seed = TARGETS["job"].seeds()[0]
    assert b'"image/jpeg"' in seed
    run_job(seed.replace(b'"image/jpeg"', b'"\\ud800"'))
    assert len(refused) == 1 and "is not JSON" in refused[0]
