"""During an upgrade two releases share one server: each must sort what the other submits, and read its results."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from producer import Frame, LineProducer, wait_for
from shared.schemas import Outcome, SortResult
from shared.settings import Settings
from tests.e2e.kit import environment
from tests.kit import BOTTLES, PATIENCE_S, PROJECT, missing_tool

pytestmark = pytest.mark.e2e

# The release that plants run today. Update it with each release.
PREVIOUS = "11ae614"
PREVIOUS_CODE = ("sortline.py", "shared", "producer", "worker", "model_store")
JOBS = 8

_SUBMIT_AND_READ = """
import json, sys
from pathlib import Path
from producer import Frame, LineProducer, wait_for
from shared.settings import load_settings
settings = load_settings()
frames = [Frame(data=Path(name).read_bytes(), line="line-1", camera="c", deadline_ms=600_000) for name in sys.argv[1:]]
results = wait_for(LineProducer(settings).submit_many(frames), timeout_s=240, settings=settings)
print(json.dumps([result.model_dump(mode="json") for result in results.values()]))
"""
_WORK = "import runpy; runpy.run_module('sortline', run_name='__main__')"
_WHICH = "import shared.schemas; print(shared.schemas.__file__)"


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous release's code."""
    archive = subprocess.run(
        ["git", "-C", str(PROJECT), "archive", PREVIOUS, *PREVIOUS_CODE], capture_output=True, check=False
    )
    if archive.returncode:
        missing_tool(f"needs git and the whole history, with {PREVIOUS}: {archive.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def plant(settings: Settings, tiny_models: Path) -> Settings:
    return settings.model_copy(update={"model_store": str(tiny_models), "model": "tiny", "engine": "litert"})


def bottles() -> list[Path]:
    return sorted(BOTTLES.glob("*.jpg"))[:JOBS]


def start(code: Path, program: str, *arguments: str, settings: Settings) -> subprocess.Popen[str]:
    """Run a program on the code of this folder, whatever is installed."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=code,
        env=environment(settings, PYTHONPATH=str(code)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait until it ends, which must be without an error, and return what it printed."""
    try:
        printed, log = process.communicate(timeout=4 * PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, log
    return printed


def test_each_release_runs_its_own_code(previous: Path, plant: Settings) -> None:
    """Otherwise the tests below would prove nothing."""
    for code in (previous, PROJECT):
        assert finish(start(code, _WHICH, settings=plant)).strip() == str(code / "shared" / "schemas.py")


def test_the_previous_worker_sorts_what_this_producer_submits(previous: Path, plant: Settings) -> None:
    frames = [Frame(data=path.read_bytes(), line="line-1", camera="c", deadline_ms=600_000) for path in bottles()]
    job_ids = LineProducer(plant).submit_many(frames)
    finish(start(previous, _WORK, "worker", "--burst", settings=plant))
    results = wait_for(job_ids, timeout_s=PATIENCE_S, settings=plant)
    assert [result.outcome for result in results.values()] == [Outcome.SORTED] * JOBS


def test_this_worker_sorts_what_the_previous_producer_submits_and_that_reads_it(
    previous: Path, plant: Settings
) -> None:
    worker = start(PROJECT, _WORK, "worker", settings=plant)
    try:
        printed = finish(start(previous, _SUBMIT_AND_READ, *map(str, bottles()), settings=plant))
        worker.terminate()
        finish(worker)
    finally:
        worker.kill()
    results = [SortResult.model_validate(each) for each in json.loads(printed)]
    assert [result.outcome for result in results] == [Outcome.SORTED] * JOBS
