"""Output fails without a traceback: a reader that has ended, a full disk, a terminal without the characters."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from sortline.cli import explain
from tests.kit import BOTTLES, PATIENCE_S
from tests.producer.kit import publish, sort_result
from tests.sortline.kit import environment

PICTURE = "fläsche 图.jpg"
# One command for each way to print: tables, lines, JSON, help. All commands go through the same `main`.
COMMANDS = [
    "config",
    "results",
    "results --json",
    f"upload '{PICTURE}'",
    f"classify '{PICTURE}'",
    "models list --json",
    "camera --line l --source simulated --count 1 --pool 1",
    "--help",
]


@pytest.fixture
def run(
    client: redis.Redis, redis_url: str, tiny_models: Path, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs a command line of the shell, in a folder with a picture and on a server that has a result for it."""
    shutil.copy(BOTTLES / "bottles_000.jpg", tmp_path / PICTURE)
    publish(client, sort_result("j1").model_copy(update={"frame_id": PICTURE}))
    shared_variables = environment(home=tmp_path, redis_url=redis_url, store=tiny_models)
    shared_variables["SL"] = f"{sys.executable} -m sortline"

    def run(command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=shared_variables | variables,
            capture_output=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )

    return run


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_ended_and_a_full_disk(
    run: Callable[..., subprocess.CompletedProcess[bytes]], command: str
) -> None:
    done = run(f"exec 3> >(exec true); wait $!; $SL {command} >&3")  # the reader has ended before the command begins
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    done = run(f"$SL {command} 2>&1 >/dev/full; echo $?")
    assert b"Traceback" not in done.stderr + done.stdout
    assert b"Exception ignored" not in done.stderr + done.stdout
    said, code = done.stdout.decode().splitlines()[-2:]
    assert (said, code) == ("sortline: the output can't be written: No space left on device.", "1")


@pytest.mark.parametrize("command", ["upload --out 1", "classify --out 1 --html 2 --grid 3.png"])
def test_files_are_written_although_the_reader_of_the_printed_lines_has_ended(
    run: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path, command: str
) -> None:
    done = run(f"exec 3> >(exec true); wait $!; $SL {command} '{PICTURE}' >&3", PYTHONUNBUFFERED="1")
    assert done.returncode == 1
    files = [tmp_path / name for name in command.split()[2::2]]
    assert [file.name for file in files if not file.is_file() or file.stat().st_size == 0] == []


# Each writes to standard error: lines, progress, logs, errors with their exit codes.
NOTING_COMMANDS = [
    "results",
    "classify broken.jpg",
    f"models check-dataset '{BOTTLES}'",
    f"upload '{PICTURE}'",
    "camera --line l --source simulated --count 1 --pool 1 --json",
    "config --engine absent",
    "results --json --csv",
    "no-such-command",
]


@pytest.mark.slow
@pytest.mark.parametrize("command", NOTING_COMMANDS)
def test_messages_that_cannot_be_written_change_no_command(
    run: Callable[..., subprocess.CompletedProcess[bytes]], command: str
) -> None:
    command = f"printf broken >broken.jpg; $SL {command}"
    usual = run(command)
    assert usual.stderr
    done = run(f"{command} 2>/dev/full")
    assert (done.returncode, figures_hidden(done.stdout)) == (usual.returncode, figures_hidden(usual.stdout))


def test_a_reader_of_the_messages_that_has_ended_ends_no_command(
    run: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    done = run("exec 3> >(exec true); wait $!; $SL results 2>&3")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)


def figures_hidden(output: bytes) -> bytes:
    """The output without its figures, some of which are times, and without the blanks that align them."""
    return re.sub(rb"[\d.,\s]+", b" ", output)


def test_a_system_without_a_folder_for_temporary_files() -> None:
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")  # as tempfile raises it
    assert explain(error) == (
        "No usable temporary directory found in ['/tmp']: set TMPDIR to a folder that can be written to."
    )
    assert explain(FileNotFoundError(errno.ENOENT, "No such file")) is None


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_without_the_characters(
    run: Callable[..., subprocess.CompletedProcess[bytes]], command: str
) -> None:
    locale = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = run(f"$SL {command}", **locale, COLUMNS="20")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    if command.endswith("--json"):
        assert json.loads(done.stdout)
    if command.startswith("classify"):
        assert done.stdout.startswith(b"fl\\xe4sche \\u56fe.jpg  ")


@pytest.mark.slow
def test_outputs_that_the_shell_has_closed(run: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    for command in ("config", "models list", "results --csv"):
        done = run(f"$SL {command} >&-")
        assert (done.returncode, done.stderr) == (0, b""), command
    done = run("SORTLINE_MAXBATCH=3 $SL config --json 2>&-")
    assert json.loads(done.stdout), "the warning is not part of the output"


@pytest.mark.slow
def test_misspelled_variables_are_named_by_every_command(
    run: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    """Commands that log say it once in their logs."""
    advice = "SORTLINE_MAXBATCH is set but is not a setting: did you mean SORTLINE_MAX_BATCH?"
    for command in ("models list", "results", "config --json"):
        done = run(f"$SL {command}", SORTLINE_MAXBATCH="3")
        assert done.stderr.decode().count(f"sortline: {advice}\n") == 1, command
    for command in ("camera --line l --source simulated --count 1 --pool 1", "worker --burst --metrics-port 0"):
        done = run(f"$SL {command}", SORTLINE_MAXBATCH="3", SORTLINE_LOG_FORMAT="json")
        logged = [json.loads(line) for line in done.stderr.splitlines()]
        assert [line["message"] for line in logged if "not a setting" in line["message"]] == [advice], command


def test_help_does_not_check_the_variables(run: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    """The settings take a tenth of a second to import."""
    done = run("$SL config --help", SORTLINE_MAXBATCH="3")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_a_user_without_a_home_folder(run: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    """A container may run under a user that it does not know. Commands that need the folder name the setting."""
    no_home = "unset HOME; exec unshare --user --map-user=54321 --map-group=54321 "
    if run(f"{no_home} true").returncode != 0:
        pytest.skip("this machine allows no user namespaces (unshare --user)")
    assert run(f"{no_home} $SL upload '{PICTURE}'").returncode == 0
    assert run(f"{no_home} $SL classify '{PICTURE}'").returncode == 0
    for command in ("models list", "worker --metrics-port 0", f"classify '{PICTURE}'"):
        done = run(f"{no_home} env -u SORTLINE_MODEL_STORE $SL {command}")
        (line,) = [line for line in done.stderr.decode().splitlines() if line.startswith("sortline: ")]
        assert "model_store = '~/.local/share/sortline/models' begins with a home folder" in line
        assert "Traceback" not in done.stderr.decode()
        assert done.returncode == 2
