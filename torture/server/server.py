"""A Valkey server that can be killed, paused, restarted, and stopped as if by a power cut. For campaigns and tests.

It runs the binary of the `demo` extra on a loopback port. It keeps its port and its data over restarts, and ends when
the caller ends, even if the caller is killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis

from shared.errors import RedisUnavailable
from shared.server.connection import connect
from shared.server.valkey import POLL_S, StartWatch, valkey_command
from shared.subprocesses import Child
from torture.server.fsync_monitor import FsyncMonitor
from torture.server.users import write_users

_AOF_FOLDER = "appendonlydir"
_PORT_TRIES = 100


class TortureServer:
    """A context manager: the server runs inside the block, except between `kill` or `power_cut` and `start`."""

    def __init__(self, folder: Path, *, watches_fsyncs: bool = False, **config: str) -> None:
        """Does not start the server yet.

        Args:
            folder: an empty folder for its data and logs, which stay there.
            watches_fsyncs: watch what reaches the disk: `power_cut`, `unsynced_bytes` and `fsyncs_held` need it. It
                takes Linux 5.0 with seccomp, on x86_64 or aarch64.
            config: settings of valkey.conf, `_` for `-`. The default is an append-only file with `appendfsync everysec`
                that is never rewritten, and MEMORY_OPTIONS. A change by CONFIG SET lasts until the next start.
        """
        self._options = {"appendonly": "yes", "auto_aof_rewrite_percentage": "0", **config}
        self._watches_fsyncs = watches_fsyncs
        self._folder = folder
        self._data = folder / "data"
        self._users = folder / "users.acl"
        self._port = _free_port()
        self._starts = 0
        self._child: Child | None = None
        self._monitor: FsyncMonitor | None = None
        self._synced_bytes: dict[str, int] = {}
        self._pid = 0
        self._run_id = ""

    @property
    def url(self) -> str:
        """Its URL, which stays the same, e.g. `redis://127.0.0.1:20123/0`."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """The process id since the last start."""
        return self._pid

    @property
    def run_id(self) -> str:
        """Valkey's id of this run of the server. Each start gives another one."""
        return self._run_id

    def client(self) -> redis.Redis:
        """A new client; connects on first use, and again after a restart."""
        return connect(self.url)

    def __enter__(self) -> TortureServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # start and end ──────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start it with the data in its folder; returns when it has loaded them and answers.

        Raises:
            NotFound: the `demo` extra is not installed.
            RedisUnavailable: it did not start; says why.
        """
        assert self._child is None, "it is already running"
        command = [*valkey_command(port=self._port, options=self._options), "--dir", str(self._data)]
        command += ["--aclfile", str(self._users)]
        write_users(self._users)
        self._data.mkdir(exist_ok=True)
        self._starts += 1
        log = self._folder / f"server-{self._starts}.log"
        with (
            tempfile.TemporaryDirectory(prefix="sortline-torture-") as short,
            socket.socket(socket.AF_UNIX) as listener,
        ):
            path = f"{short}/socket"  # a Unix socket's path has room for 107 bytes, which self._folder may exceed
            listener.bind(path)
            listener.listen()
            mode = "watched" if self._watches_fsyncs else "plain"
            self._child = Child([path, mode, *command], log=log, module="torture.server.exec_server")
            watch = StartWatch(self._child, read_log=lambda: log.read_text(errors="replace"))
            try:
                self._adopt(listener, watch)
                self._run_id = watch.wait_until_loaded(port=self._port, folder=self._data)
            except BaseException:
                self._wait_ended()
                raise

    def stop(self) -> None:
        """Send SIGTERM, upon which it syncs its data, and wait for its end. Does nothing if it isn't running."""
        if self._child is None:
            return
        self._signal(signal.SIGCONT)
        self._wait_ended()

    def kill(self) -> None:
        """Send SIGKILL, and wait for its end. The next `start` finds everything that it has written to its file."""
        self._signal(signal.SIGKILL)
        self._wait_ended()

    def power_cut(self) -> None:
        """Send SIGKILL, and cut the append-only file at its last fsync: the least that a power cut leaves.

        This is exact to the byte: it keeps everything that was synced, and nothing else. The base file and the manifest
        stay whole, because Valkey syncs them before it gives them their names.
        """
        self.kill()
        for file, unsynced in self._unsynced().items():
            os.truncate(file, file.stat().st_size - unsynced)

    def restart_empty(self) -> None:
        """Send SIGKILL, delete all data, and start again."""
        self.kill()
        shutil.rmtree(self._data)
        self._synced_bytes.clear()
        self.start()

    # while it runs ──────────────────────────────────────────────────────────────────────────────────────

    def pause_process(self) -> None:
        """Send SIGSTOP: connections stay open, but nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume_process(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def unsynced_bytes(self) -> int:
        """How much of the append-only file a power cut would take away now, in bytes."""
        return sum(self._unsynced().values())

    def has_synced_all(self) -> bool:
        """Whether everything that it has acknowledged is on the disk.

        While an fsync runs, Valkey acknowledges up to two seconds of writes that it has not yet written to its file.
        """
        with self.client() as client:
            buffered_bytes = client.info("persistence")["aof_buffer_length"]  # before the file is looked at
        return not buffered_bytes and self.unsynced_bytes() == 0

    @contextlib.contextmanager
    def fsyncs_held(self) -> Iterator[None]:
        """During the block no fsync begins or ends, as if the disk hung. The block may end the server."""
        assert self._monitor is not None
        with self._monitor.held():
            yield

    # ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _unsynced(self) -> dict[Path, int]:
        """How many bytes each of the files that Valkey appends to has got since its last fsync."""
        assert self._watches_fsyncs, "its fsyncs are not watched"
        if self._monitor is not None:
            self._synced_bytes |= self._monitor.synced_bytes()
        files = (self._data / _AOF_FOLDER).glob("*.incr.aof")
        return {file: max(0, file.stat().st_size - self._synced_bytes.get(file.name, 0)) for file in files}

    def _adopt(self, listener: socket.socket, watch: StartWatch) -> None:
        """Receive the new process's id, and the right to carry out its fsyncs."""
        listener.settimeout(POLL_S)
        while True:
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                break
            watch.check()
        with connection:
            pid, descriptors, _, _ = socket.recv_fds(connection, 32, 1)
        self._pid = int(pid)
        if descriptors:
            self._monitor = FsyncMonitor(descriptors[0])

    def _signal(self, sign: signal.Signals) -> None:
        assert self._child is not None, "it does not run"
        with contextlib.suppress(ProcessLookupError):
            if self._child.poll() is None:  # otherwise another process may have its id by now
                os.kill(self._pid, sign)

    def _wait_ended(self) -> None:
        assert self._child is not None
        self._child.end()
        self._child = None
        if self._monitor is not None:
            self._monitor.close()
            self._synced_bytes |= self._monitor.synced_bytes()
            self._monitor = None


def _free_port() -> int:
    """A free port below the range from which the kernel gives ports to outgoing connections.

    While the server is down its clients keep connecting to its port. If that were in the range, the kernel might give
    it to such a connection, which would then be connected to itself, and the server could not start on its port.
    """
    lowest_given_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(_PORT_TRIES):
        port = random.randrange(lowest_given_out // 2, lowest_given_out)  # noqa: S311  # no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RedisUnavailable(f"no free port was found below {lowest_given_out}.")
