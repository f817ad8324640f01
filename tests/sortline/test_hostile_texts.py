"""Texts of others that control a terminal, in a model's manifest and in sortline.toml, through the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.bundle.manifest import MANIFEST_FILE
from tests.kit import BOTTLES, PATIENCE_S
from tests.sortline.kit import FORGED, assert_harmless, environment

HOSTILE = f"=a\x1b[2J\x1b]0;owned\x07\r\n{FORGED}\x9b2J\u202e[red]<script>alert(1)</script>"
SHOWN = HOSTILE.replace("\x1b", r"\x1b").replace("\x07", r"\x07").replace("\r\n", r"\r\n").replace("\x9b", r"\x9b")

Run = Callable[..., subprocess.CompletedProcess[bytes]]

pytestmark = pytest.mark.slow


@pytest.fixture
def manifest(tiny_models: Path, tmp_path: Path) -> Path:
    """The manifest of the only model of a store; its class `no cap` has a hostile name, and so has its backbone."""
    shutil.copytree(tiny_models / "tiny", tmp_path / "models" / "tiny")
    (path,) = (tmp_path / "models" / "tiny").glob(f"*/{MANIFEST_FILE}")
    path.chmod(0o644)
    text = path.read_text(encoding="utf-8")
    assert '"no cap"' in text
    path.write_text(text.replace('"no cap"', json.dumps(HOSTILE)), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path, redis_url: str) -> Run:
    variables = environment(home=tmp_path, redis_url=redis_url, store=tmp_path / "models")
    variables |= {"COLUMNS": "400", "PYTHONUTF8": "1"}
    shutil.copy(BOTTLES / "bottles_000.jpg", tmp_path / "a.jpg")

    def run(command: str, *, without: str = "") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "sortline", *command.split()],
            cwd=tmp_path,
            env={name: value for name, value in variables.items() if name != without},
            capture_output=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )
        assert_harmless(done.stdout)
        assert_harmless(done.stderr)
        assert b"Traceback" not in done.stderr
        return done

    return run


def test_classes_of_a_manifest_are_shown_as_text(run: Run, manifest: Path) -> None:
    for command in ("models list", "models show tiny", "classify a.jpg --top 3"):
        done = run(command)
        assert done.returncode == 0, done.stderr
        assert SHOWN.replace("\u202e", r"\u202e") in done.stdout.decode()
    for command in ("models list --json", "models show tiny --json", "classify a.jpg --top 3 --json"):
        assert HOSTILE in strings(json.loads(run(command).stdout))


def test_pages_have_no_script_and_may_run_none(run: Run, manifest: Path, tmp_path: Path) -> None:
    """Whatever the model answers, the page has the name of the picture."""
    shutil.copy(tmp_path / "a.jpg", tmp_path / "<script>alert(1)\x1b[2J.jpg")
    done = run("classify . --html page.html --grid grid.png --out out.csv")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert_harmless(page.encode())
    assert_harmless((tmp_path / "out.csv").read_bytes().replace(b"\r\n", b"\n"))


@pytest.mark.parametrize("text", ["{", '{"name": "\\u001b[2J\\n"}', json.dumps({HOSTILE: HOSTILE}), '"\\ud800"'])
def test_errors_quote_a_manifest_as_text(run: Run, manifest: Path, text: str) -> None:
    manifest.write_text(text)
    for command in ("models list", "models show tiny", "models verify", "classify a.jpg"):
        assert run(command).returncode in (1, 2), command
    json.loads(run("models list --json").stdout)
    json.loads(run("models verify --json").stdout)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("redis_url", HOSTILE),
        ("redis_url", f"redis://{HOSTILE}@localhost"),
        ("model", HOSTILE),
        ("max_batch", HOSTILE),
        (HOSTILE, 1),
        ("model_store", f"s3://a/{HOSTILE}"),
        ("log_format", HOSTILE),
    ],
)
def test_settings_and_their_errors_are_shown_as_text(run: Run, tmp_path: Path, key: str, value: str | int) -> None:
    (tmp_path / "sortline.toml").write_text(f"{json.dumps(key)} = {json.dumps(value)}\n", encoding="utf-8")
    for command in ("config", "results", "models list"):
        run(command, without=f"SORTLINE_{key.upper()}")
    done = run("config --json", without=f"SORTLINE_{key.upper()}")
    if done.returncode == 0:
        assert json.loads(done.stdout)[key]["origin"] == "sortline.toml"
    else:
        assert (done.returncode, b"setting" in done.stderr) == (2, True)


def strings(value: object) -> set[str]:
    """All texts in a JSON document, the names of fields too."""
    if isinstance(value, dict):
        return set(value).union(*map(strings, value.values()))
    if isinstance(value, list):
        return set().union(*map(strings, value))
    return {value} if isinstance(value, str) else set()
