"""`sortline upload` as a user runs it: its rows, exit codes, signals."""

from __future__ import annotations

import csv
import json
import signal
import zipfile
from pathlib import Path

import pytest
import redis

from producer.result_table import COLUMNS
from shared import keys
from shared.errors import BadSetting
from tests.kit import BOTTLES, PATIENCE_S, wait_until
from tests.producer.command_kit import run

pytestmark = pytest.mark.usefixtures("command_environment")


def test_upload_writes_a_row_for_every_input(client: redis.Redis, tmp_path: Path) -> None:
    result = run("upload", str(BOTTLES / "bottles_000.jpg"), str(BOTTLES / "README.md"), "--out", "r.csv")
    assert result.exit_code == 0, result.output
    with (tmp_path / "r.csv").open(newline="") as file:
        assert [row["outcome"] for row in csv.DictReader(file)] == ["queued", "rejected"]
    assert client.llen(keys.rq_queue("bulk")) == 1


def test_upload_that_misses_results_fails(tmp_path: Path) -> None:
    result = run("upload", str(BOTTLES / "bottles_000.jpg"), "--wait", "--timeout", "0.2", "--json", "--line", "line-9")
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout)
    assert (row["outcome"], row["attempt"]) == ("missing", None)


@pytest.mark.parametrize("out", ["nowhere/r.csv", "."])
def test_upload_refuses_an_out_file_that_can_not_be_written(client: redis.Redis, out: str) -> None:
    result = run("upload", str(BOTTLES / "bottles_000.jpg"), "--out", out)
    assert isinstance(result.exception, BadSetting)
    assert client.dbsize() == 0


def test_upload_does_not_overwrite_its_input(client: redis.Redis, tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(BOTTLES / "bottles_000.jpg", "bottles_000.jpg")
    before = archive.read_bytes()
    result = run("upload", str(archive), "--out", str(archive))
    assert isinstance(result.exception, BadSetting)
    assert archive.read_bytes() == before
    assert client.dbsize() == 0


@pytest.mark.parametrize("name", ["photos.zip", "photo"])
def test_upload_does_not_overwrite_what_it_sends_from_a_folder(client: redis.Redis, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        file.write(BOTTLES / "bottles_000.jpg", "bottles_000.jpg")
    (tmp_path / "photo").write_bytes((BOTTLES / "bottles_000.jpg").read_bytes())
    before = (tmp_path / name).read_bytes()
    assert isinstance(run("upload", ".", "--out", name).exception, BadSetting)
    assert (tmp_path / name).read_bytes() == before
    assert client.dbsize() == 0


def test_upload_overwrites_the_results_of_an_earlier_upload_of_its_folder(client: redis.Redis, tmp_path: Path) -> None:
    (tmp_path / "bottle.jpg").write_bytes((BOTTLES / "bottles_000.jpg").read_bytes())
    for files in (["bottle.jpg"], ["bottle.jpg", "r.csv"]):
        result = run("upload", ".", "--out", "r.csv")
        assert result.exit_code == 0, result.output
        with (tmp_path / "r.csv").open(newline="") as file:
            assert [row["file"] for row in csv.DictReader(file)] == files


def test_upload_writes_its_rows_into_a_pipe_at_standard_output(client: redis.Redis, start) -> None:  # type: ignore[no-untyped-def]
    process = start("upload", str(BOTTLES / "bottles_000.jpg"), "--out", "/dev/stdout")
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert "can't be written" not in stderr
    assert ",".join(("file", *COLUMNS)) in stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_an_upload_with_a_row_for_each_file(  # type: ignore[no-untyped-def]
    client: redis.Redis, start, number: signal.Signals, code: int
) -> None:
    process = start("upload", str(BOTTLES / "bottles_000.jpg"), "--wait", "--out", "r.csv")
    wait_until(lambda: client.llen(keys.rq_queue("bulk")) or process.poll() is not None, "the upload sends")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, stderr
    with Path("r.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["outcome"] == "missing"
    assert row["error"].endswith("the upload was interrupted.")


def test_an_upload_that_is_refused_for_good_says_what_became_of_each_file(client: redis.Redis, redis_url: str) -> None:
    client.acl_setuser("upload", enabled=True, nopass=True, keys="*", commands=["+@all", "-set"])
    theirs = redis_url.replace("://", "://upload:x@")
    try:
        result = run("upload", str(BOTTLES / "bottles_000.jpg"), "--json", "--out", "r.csv", "--redis-url", theirs)
    finally:
        client.acl_deluser("upload")
    assert isinstance(result.exception, BadSetting)
    (row,) = json.loads(result.stdout)
    assert row["outcome"] == "missing"
    assert "'set' command" in row["error"]
    assert "'set' command" in Path("r.csv").read_text()
