"""The tables of forged things: there are many different ones, and the traps in them work."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.kit import wait_until
from torture.forging.forgeries import FORGERIES, KINDS
from torture.forging.payloads import PAYLOADS
from torture.forging.payloads.calls import TRAPS
from torture.forging.payloads.ids import ODD_IDS
from torture.forging.payloads.messages import MESSAGES
from torture.forging.payloads.packed_data import DATA, PICKLES
from torture.forging.payloads.payload import MISSING, Payload, Traps
from torture.plant.executions import EXECUTIONS_VARIABLE, read_executions
from worker.steps.admit import MAX_CALL_BYTES

# Runs a call as RQ's own worker would.
RUN_CALL = """
import json, sys
from rq.utils import import_attribute
function, _, arguments, keywords = json.loads(sys.argv[1])
result = import_attribute(function)(*arguments, **keywords)
getattr(result, "close", lambda: None)()
"""
WATCHED = """
import os, pickle, subprocess, sys
from torture.plant.executions import watch
watch()
subprocess.run([sys.executable, "-c", ""])  # as the worker starts its decoder
exec(sys.argv[1])
"""


def content(payload: Payload, traps: Traps) -> tuple[object, ...]:
    """What the payload puts into a job. Times that depend on the moment are left out."""
    call = {name: "missing" if value is MISSING else repr(value) for name, value in (payload.call or dict)().items()}
    return (
        payload.data and payload.data(traps),
        repr(sorted(call.items())),
        repr(sorted((payload.fields or {}).items())),
        repr(payload.image and payload.image()),
    )


def run(program: str, argument: str, record: Path) -> list[str]:
    """Run a program that may leave lines in the record; these lines."""
    environment: Mapping[str, str] = os.environ | {EXECUTIONS_VARIABLE: str(record)}
    subprocess.run(
        [sys.executable, "-c", program, argument], env=environment, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    return read_executions(record)


def test_there_are_many_and_all_differ(tmp_path: Path) -> None:
    traps = Traps(str(tmp_path / "record"))
    contents = [content(payload, traps) for payload in PAYLOADS.values()]
    assert len(set(contents)) == len(contents) >= 150
    assert len(set(ODD_IDS)) == len(ODD_IDS) >= 30
    assert len(set(MESSAGES.values())) == len(MESSAGES) >= 30
    assert len(FORGERIES) == sum(len(kind) for kind in KINDS.values()), "two forgeries have the same name"


@pytest.mark.parametrize("name", TRAPS)
def test_a_call_that_is_run_leaves_a_line(name: str, tmp_path: Path) -> None:
    record = tmp_path / "a record"
    run(RUN_CALL, json.dumps(TRAPS[name](Traps(str(record)))), record)
    wait_until(lambda: read_executions(record), "the call has run")


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_is_read_leaves_a_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "a record"
    monkeypatch.setenv(EXECUTIONS_VARIABLE, str(record))
    monkeypatch.delitem(sys.modules, "torture.plant.tripwire", raising=False)
    pickle.loads(PICKLES[name](Traps(str(record))))  # noqa: S301  # that the trap works is what is tested
    assert read_executions(record)


def test_bombs_are_whole_and_some_are_short_enough_to_reach_a_worker(tmp_path: Path) -> None:
    bomb = DATA["data: 90 MB, packed in 100 KB"].data
    assert bomb is not None
    packed = bomb(Traps(str(tmp_path)))
    assert len(packed) < MAX_CALL_BYTES
    assert len(zlib.decompress(packed)) == 90_000_000


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("os.system('true')", "os.system"),
        ("pickle.loads(pickle.dumps(os.system))", "pickle.find_class"),
        ("import pydoc", "import"),
        ("import torture.plant.tripwire", "import"),
        ("subprocess.run(['true'])", "subprocess.Popen"),
        ("os.execv('/bin/true', ['true'])", "os.exec"),
    ],
)
def test_what_a_worker_never_does_is_recorded(code: str, says: str, tmp_path: Path) -> None:
    found = run(WATCHED, code, tmp_path / "record")
    assert found and found[0].startswith(says)


def test_what_a_worker_does_is_not_recorded(tmp_path: Path) -> None:
    assert run(WATCHED, "import json, zlib; json.loads('[]')", tmp_path / "record") == []
