"""What a LiteRT worker and a producer load: never TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from producer import Frame, LineProducer, wait_for
from shared.schemas import Outcome
from shared.settings import Settings
from tests.e2e.kit import environment
from tests.kit import BOTTLES, run_python

pytestmark = pytest.mark.e2e

WORK = """
import sys
from worker.service import WorkerService
from shared.settings import load_settings
code = WorkerService(load_settings(), burst=True).run()
heavy = [name for name in ("tensorflow", "tf_keras", "matplotlib", "h5py", "tensorflow_hub") if name in sys.modules]
print(code, heavy)
"""


def test_a_litert_worker_never_imports_tensorflow(settings: Settings, tiny_models: Path) -> None:
    plant = settings.model_copy(update={"model_store": str(tiny_models), "model": "tiny", "engine": "litert"})
    data = sorted(BOTTLES.glob("*.jpg"))[0].read_bytes()
    job_ids = LineProducer(plant).submit_many([Frame(data=data, line="line-1", camera="cam-1")] * 20)
    done = subprocess.run(
        [sys.executable, "-c", WORK], env=environment(plant), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.strip().splitlines()[-1] == "0 []", done.stderr
    results = wait_for(job_ids, timeout_s=1, settings=plant)
    assert {result.outcome for result in results.values()} == {Outcome.SORTED}


@pytest.mark.parametrize("statement", ["import sortline.cli", "from sortline import LineProducer, wait_for"])
def test_help_and_producers_load_nothing_heavy(statement: str) -> None:
    probe = (
        f"import sys; {statement}; print([n for n in ('tensorflow', 'matplotlib', 'h5py', 'rq') if n in sys.modules])"
    )
    assert run_python(probe).strip() == "[]"
