"""A plant's way through producer, server, worker and reader unpickles nothing, also when somebody sends a pickle."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.serializers import DefaultSerializer

from shared.settings import Settings
from tests.e2e.kit import environment
from tests.kit import BOTTLES, PATIENCE_S, PROJECT

pytestmark = pytest.mark.e2e

# Python imports this module first in every process that has its folder in PYTHONPATH, so RQ can't bind the originals.
WATCH = """
import os, pickle, sys, traceback

def refuse(*_, **__):
    with open({record!r}, "a") as file:
        file.write("".join(traceback.format_stack()) + "\\n")
    raise RuntimeError("something was unpickled")

def hear(event, _):
    if event == "pickle.find_class":
        refuse()

pickle.loads = pickle.load = refuse
pickle.Unpickler = type("Unpickler", (), {{"__init__": refuse}})
sys.addaudithook(hear)
"""


class Watched:
    """Runs commands in which unpickling raises an error, and is recorded."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._record = folder / "unpickled.txt"
        (folder / "sitecustomize.py").write_text(WATCH.format(record=str(self._record)))
        self._variables = environment(settings) | {"PYTHONPATH": f"{folder}:{PROJECT}"}

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE_S,
            check=False,
        )
        assert done.returncode == exit_code, done.stderr
        return done.stdout

    def unpickled(self) -> str:
        """Where something was, as stack traces."""
        return self._record.read_text() if self._record.exists() else ""


@pytest.fixture
def watched(settings: Settings, tiny_models: Path, tmp_path: Path) -> Watched:
    return Watched(tmp_path, settings.model_copy(update={"model_store": str(tiny_models), "model": "tiny"}))


@pytest.mark.parametrize(
    "program",
    [
        "import pickle; pickle.loads(pickle.dumps(1))",
        "from pickle import Unpickler; Unpickler(None)",
        "import _pickle, pickle, os; _pickle.loads(pickle.dumps(os.getcwd))",
        "from rq.serializers import DefaultSerializer as S; S.loads(S.dumps(1))",
    ],
)
def test_unpickling_would_be_noticed(watched: Watched, program: str) -> None:
    watched.run("-c", program, exit_code=1)
    assert watched.unpickled()


def test_nothing_is_unpickled(watched: Watched, client: redis.Redis) -> None:
    pickled = Queue("live", connection=client, serializer=DefaultSerializer).enqueue("os.getcwd")
    assert pickle.dumps(None)[:1] in _data(client, pickled.id), "the job is a pickle"
    picture = str(min(BOTTLES.glob("*.jpg")))
    watched.run("-m", "sortline", "models", "verify", "tiny")
    watched.run("-m", "sortline", "classify", picture)
    watched.run("-m", "sortline", "upload", picture, "--line", "line-1")
    watched.run("-m", "sortline", "worker", "--burst")
    results = watched.run("-m", "sortline", "results", "--line", "line-1", "--json")
    assert '"outcome": "sorted"' in results or '"outcome":"sorted"' in results
    assert client.hget(f"rq:job:{pickled.id}", "status") == b"failed"
    assert watched.unpickled() == ""


def _data(client: redis.Redis, job_id: str) -> bytes:
    stored = client.hget(f"rq:job:{job_id}", "data")
    assert isinstance(stored, bytes)
    return zlib.decompress(stored)
