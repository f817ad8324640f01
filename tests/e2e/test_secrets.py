"""A plant whose server wants a password from a file: everything works, and the password is nowhere to be seen."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from shared.server.embedded import embedded_server
from shared.settings import Settings
from tests.e2e.kit import answers, ready, sortline, stop, worker
from tests.kit import BOTTLES, command_line, wait_until
from torture.plant.proc_files import family

pytestmark = pytest.mark.e2e

SECRET = "hunter2/ß@x"
PIECE = "hunter2"


def test_a_password_from_a_file_works_everywhere_and_shows_nowhere(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, log = tmp_path / "secret", tmp_path / "worker.log"
    file.write_text(f"{SECRET}\n")
    (tmp_path / "archive").mkdir()
    with embedded_server() as url, redis.Redis.from_url(url) as admin:
        commands = {"commands": ["+@all"], "keys": "*", "channels": "*"}
        admin.acl_setuser("plant", enabled=True, reset=True, passwords=[f"+{SECRET}"], **commands)
        settings = Settings(
            redis_url=url.replace("redis://", "redis://plant@"),
            model_store=str(tiny_models),
            model="tiny",
            cache_dir=tmp_path / "cache",
            state_dir=tmp_path / "state",
            metrics_port=0,
            log_level="debug",
            archive_dir=tmp_path / "archive",
            archive_share=1.0,
        )
        given = {"SORTLINE_REDIS_PASSWORD_FILE": str(file)}
        monkeypatch.setattr("tests.e2e.kit.environment", lambda settings, **more: _variables(settings, **given, **more))
        admin.acl_setuser("default", enabled=False)  # the open connection of `admin` keeps working
        with worker(settings, log=log) as process:
            wait_until(lambda: ready(log), "the worker is ready", log=log)
            done = sortline("upload", str(BOTTLES / "bottles_000.jpg"), "--wait", settings=settings)
            sent = sortline("camera", "--line", "l", "--source", str(BOTTLES), "--count", "2", settings=settings)
            read = sortline("results", settings=settings)
            shown = [_output(done), _output(sent), _output(read)]
            assert [done.returncode, sent.returncode, read.returncode] == [0, 0, 0], shown
            shown += [answers(log, "/metrics") or "", answers(log, "/readyz") or ""]
            shown += [command_line(pid) for pid in family(process.pid)]
            assert len(shown) > 6, "the worker has a parent and children"
            shown += [repr(_content(admin, key)) for key in admin.keys("*")]
            assert stop(process) == 0
    names, contents = [*map(str, tmp_path.rglob("*"))], _contents(tmp_path, skip=file)
    assert {"archive", "state"} <= {Path(name).relative_to(tmp_path).parts[0] for name in contents}
    assert [text for text in (*shown, *names) if PIECE in text] == []
    assert [name for name, data in contents.items() if PIECE.encode() in data] == []


def _variables(settings: Settings, **more: str) -> dict[str, str]:
    """What a user sets: the URL without the password, and the file beside it."""
    from shared.settings import environment

    return {**os.environ, **environment(settings), **more}


def _output(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def _contents(folder: Path, *, skip: Path) -> dict[str, bytes]:
    """What the files below a folder hold, by name."""
    files = (path for path in folder.rglob("*") if path != skip and path.is_file())
    return {str(path): path.read_bytes() for path in files}


def _content(client: Any, key: bytes) -> object:
    """All that a key holds."""
    match client.type(key):
        case b"hash":
            return client.hgetall(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return client.smembers(key)
        case b"zset":
            return client.zrange(key, 0, -1)
        case b"stream":
            return client.xrange(key)
    return client.get(key)
