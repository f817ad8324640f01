"""Names that control a terminal, begin a line, begin a formula or are not UTF-8, through the whole command line."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.kit import BOTTLES, PATIENCE_S
from tests.producer.kit import publish, sort_result
from tests.sortline.kit import FORGED, assert_harmless, environment

TITLE = "\x1b]0;owned\x07"
NAMES = [
    f"clear\x1b[2J{TITLE}".encode(),
    f"line\n{FORGED}".encode(),
    "return\rc1\x9b2J\x85bidi\u202e\u2066".encode(),
    b"caf\xe9",
    b"=cmd|' !A0",
    b"[red]markup[bold]",
]
# One for each way to print: lines, tables, logs, JSON, CSV, errors of files, of options and of settings; each with its
# exit code.
COMMANDS = {
    "classify .": 1,
    "classify . --json": 1,
    "classify . --out out.csv --html page.html --grid grid.png": 1,
    "classify $'missing\\x1b[2J\\n'": 1,
    "upload .": 0,
    "upload . --json --out out.csv": 0,
    "upload $'missing\\x1b[2J\\n'": 1,
    "camera --line l --source . --count 12": 0,
    "camera --line l --source . --count 12 --json": 0,
    "results": 0,
    "results --csv": 0,
    "results --json": 0,
    "results --line $'a\\x1b[2J\\n'": 2,
    "models check-dataset .": 1,
    "models check-dataset ../dataset": 1,
    "models check-dataset ../dataset --json": 1,
    "evaluate ../dataset --json": 0,
    "evaluate ../dataset": 0,
    "models list --model-store $'st\\x1b[2J\\nore'": 0,
    "classify . --out $'no\\x1b[2J\\n/out.csv'": 2,
    "$'--\\x1b[2J\\n'": 2,
}
# They print no name of a file: they find no labels, and no class with enough images.
NAMELESS = ("models check-dataset .", "models check-dataset ../dataset")


@pytest.fixture
def variables(client: redis.Redis, redis_url: str, tiny_models: Path, tmp_path: Path) -> dict[str, str]:
    """A shell's variables in a folder of pictures, and of files that are none, with such names; `$SL` is sortline."""
    for folder in ("pictures", "dataset/good", "dataset/no cap"):
        (tmp_path / folder).mkdir(parents=True)
        for name in map(os.fsdecode, NAMES):
            shutil.copy(BOTTLES / "bottles_000.jpg", tmp_path / folder / f"{name}.jpg")
            (tmp_path / folder / f"{name} bad.jpg").write_bytes(b"no image")
    texts = [*(name.decode(errors="replace") for name in NAMES), "[/]"]
    for number, text in enumerate(texts):
        hostile = dict.fromkeys(("camera", "frame_id", "lane", "error", "worker"), text)
        publish(client, sort_result(f"j{number}{text}").model_copy(update=hostile))
    return environment(home=tmp_path, redis_url=redis_url, store=tiny_models) | {
        "SL": f"{sys.executable} -m sortline",
        "PYTHONUTF8": "1",
        "TERM": "xterm",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "log_format"),
    [*((command, "text") for command in COMMANDS), *((command, "json") for command in COMMANDS if "camera" in command)],
)
def test_they_are_shown_as_text(variables: dict[str, str], tmp_path: Path, command: str, log_format: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"$SL {command}"],
        cwd=tmp_path / "pictures",
        env=variables | {"SORTLINE_LOG_FORMAT": log_format, "COLUMNS": "400"},  # no name is wrapped
        capture_output=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert_harmless(done.stdout)
    assert_harmless(done.stderr)
    assert b"Traceback" not in done.stderr
    assert done.returncode == COMMANDS[command]
    if command not in NAMELESS:
        assert any(escaped in done.stdout + done.stderr for escaped in (rb"\x1b[2J", rb"\u001b[2J"))
    if "--json" in command and "results" not in command:
        json.loads(done.stdout)
    if log_format == "json":
        assert any(json.loads(line)["message"] for line in done.stderr.splitlines())
    for path in (tmp_path / "pictures").glob("out.csv"):
        assert_harmless(path.read_bytes().replace(b"\r\n", b"\n"))
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) == 1 + 2 * len(NAMES)
        assert not any(cell.startswith(("=", "@")) for row in rows for cell in row)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["classify .", "classify . --out out.csv", "upload .", "results", "$'--\\x1b[2J'"])
def test_they_do_not_control_a_terminal(variables: dict[str, str], tmp_path: Path, command: str) -> None:
    shown = on_terminal(f"exec $SL {command}", cwd=tmp_path / "pictures", variables=variables)
    for sequence in (b"\x1b]", b"\x1b[2J", b"\x07", "\x9b".encode(), "\x85".encode(), "\u202e".encode()):
        assert sequence not in shown, shown
    assert b"\n" + FORGED.encode() not in shown
    if "--" not in command:
        assert rb"\x1b[2J" in shown.replace(b"\r\n", b"")
        assert b"[red]" in shown


def on_terminal(command: str, *, cwd: Path, variables: dict[str, str]) -> bytes:
    """What a command of the shell writes if all its outputs are a terminal."""
    terminal, side = pty.openpty()
    with subprocess.Popen(["bash", "-c", command], cwd=cwd, env=variables, stdout=side, stderr=side):
        os.close(side)
        shown = b""
        with contextlib.suppress(OSError):  # Linux raises EIO when the terminal's last writer has ended
            while part := os.read(terminal, 65_536):
                shown += part
    os.close(terminal)
    return shown
