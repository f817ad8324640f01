"""A model is tried in a process of its own: whatever it does there, its verdict comes and the caller goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.bundle.files import Bundle, open_bundle
from model_store.engines import isolated_load
from model_store.engines.isolated_load import check_loadable, engines_to_try, isolated_load_error
from shared.errors import BadBundle, EngineFailed
from shared.subprocesses import own_command
from tests.model_store.hostile_bundles import crash_litert, spoil_litert, spoil_saved_model


def programs(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Let this program run instead of the one that loads the model."""
    monkeypatch.setattr(
        isolated_load, "own_command", lambda *arguments, module: [own_command()[0], "-c", source, module, *arguments]
    )


@pytest.fixture
def opened(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


def test_a_good_model_passes(opened: Bundle) -> None:
    check_loadable(opened, litert_only=True)


def test_a_bundle_that_was_exchanged_after_it_was_opened_is_not_run(copied: Path) -> None:
    """Its digests are right, but it is not what was signed. Loaded, it would crash the engine."""
    checked = open_bundle(copied)
    crash_litert(copied)
    error = isolated_load_error(checked, "litert-fp32")
    assert error == f"{copied} was exchanged after it was checked. Find out who can write the model store."


def test_the_process_gets_no_secrets(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_REDIS_URL", "redis://:secret@127.0.0.1/0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    programs(monkeypatch, "import json, os; print(json.dumps({'error': json.dumps(dict(os.environ))}))")
    given = json.loads(isolated_load_error(opened, "litert") or "")
    assert "secret" not in given.values()
    assert not [name for name in given if name.startswith(("SORTLINE_", "AWS_"))]
    assert (given["TF_CPP_MIN_LOG_LEVEL"], given["PATH"]) == ("3", os.environ["PATH"])


@pytest.mark.training
def test_every_engine_that_is_installed_is_tried(copied: Path) -> None:
    assert engines_to_try(litert_only=False) == ["litert", "litert-fp32", "tensorflow"]
    assert engines_to_try(litert_only=True) == ["litert", "litert-fp32"]
    spoil_saved_model(copied)
    check_loadable(open_bundle(copied), litert_only=True)
    with pytest.raises(BadBundle, match="can't be loaded by TensorFlow"):
        check_loadable(open_bundle(copied))


def test_a_model_that_crashes_the_engine_ends_only_that_process(copied: Path) -> None:
    crash_litert(copied)
    error = isolated_load_error(open_bundle(copied), "litert-fp32", background=True)
    assert error is not None
    assert error.startswith(f"{copied} on engine litert-fp32: the model makes the engine crash (SIGSEGV")
    with pytest.raises(BadBundle, match="SIGSEGV"):
        check_loadable(open_bundle(copied), litert_only=True)


def test_a_file_that_is_no_model_is_refused_with_the_engines_reason(copied: Path) -> None:
    spoil_litert(copied)
    error = isolated_load_error(open_bundle(copied), "litert-fp32")
    assert error is not None
    assert "model.fp32.tflite can't be loaded by LiteRT" in error


@pytest.mark.parametrize(
    ("source", "matches"),
    [
        ("import os; os._exit(3)", "the model makes the engine crash (exit code 3)"),
        ("import os; os._exit(0)", "the model ended the process that tried it"),
        ("print('null')", "the model ended the process that tried it"),
        ("print('[' * 100000)", "the model ended the process that tried it"),
        (
            "import sys, os; print('y', file=sys.stderr, flush=True); os.abort()",
            "(SIGABRT; the last line of its output: 'y')",
        ),
    ],
)
def test_whatever_the_process_does_is_a_verdict(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch, source: str, matches: str
) -> None:
    programs(monkeypatch, source)
    assert matches in (isolated_load_error(opened, "litert") or "")


def test_a_process_that_is_killed_says_nothing_about_the_model(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(monkeypatch, f"import os; os.kill(os.getpid(), {signal.SIGKILL.value})")
    with pytest.raises(EngineFailed, match="want of memory"):
        isolated_load_error(opened, "litert")


def test_a_model_that_hangs_is_refused(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(monkeypatch, "import time; time.sleep(1000)")
    now = iter((0.0, 1.0, 300.0))
    clock: Callable[[], float] = lambda: next(now)  # noqa: E731
    slept: list[float] = []
    error = isolated_load_error(opened, "litert", clock=clock, sleep=slept.append)
    assert len(slept) == 1
    assert error == f"{opened.path} on engine litert: the model was not loaded within 300 s."
