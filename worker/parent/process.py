"""The parent process of `sortline worker`. It does nothing but watch the worker, so that nothing in it can crash.

    SIGTERM, SIGINT ──▶ parent ── a byte for each ──▶ worker (a fork of the parent)
                          ▲                             │ crashes, hangs, is killed ──▶ the next worker, told why
                          └─────────────────────────────┘ ends otherwise ──▶ the parent ends in the same way

Requests to stop go through a pipe, not as signals: a terminal, `timeout` and systemd send a signal to both processes.
If the parent passed it on as another signal, the worker would count it twice.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import time

from worker.parent import handover
from worker.parent.causes import cause_of, count_memory_kills
from worker.parent.log import log_restart

# The wait doubles with each worker that dies before it has begun to work: otherwise restarting would take a whole core.
FIRST_WAIT_S = 0.1
MAX_WAIT_S = 5.0

_STOPS = (signal.SIGTERM, signal.SIGINT)


def start_worker() -> None:
    """Fork, and return in the new process, the worker. The calling process becomes its parent, and ends here."""
    status = Parent().keep_worker()
    if status is not None:
        _end_like(status)


class Parent:
    """Keeps one worker running. It has no threads, as it forks."""

    def __init__(self) -> None:
        # Python writes the number of each signal into this pipe, so signals are dealt with one after another.
        self._signals, self._signals_in = os.pipe()
        self._handlers = {number: signal.getsignal(number) for number in (*_STOPS, signal.SIGCHLD, handover.WORKS)}
        self._pid = 0
        self._name = ""
        self._lifeline = -1
        self._status: int | None = None
        self._is_told_to_stop = False
        self._works = False  # whether the worker has begun to work

    def keep_worker(self) -> int | None:
        """Start workers until one ends for good, and return its wait status. In each worker it returns None at once."""
        self._catch_signals()
        predecessor: handover.Predecessor | None = None
        wait_s = FIRST_WAIT_S
        while True:
            memory_kills = count_memory_kills()
            if self._is_worker_after_fork(predecessor):
                return None
            status = self._await_end()
            cause = cause_of(status, memory_kills=count_memory_kills() - memory_kills)
            if cause is None or self._is_told_to_stop:
                return status
            if self._works:
                wait_s = FIRST_WAIT_S
            log_restart(worker=self._name, cause=cause, wait_s=wait_s)
            predecessor = handover.Predecessor(self._name, cause, died_at=time.monotonic())
            if self._is_told_to_stop_within(wait_s):
                return status
            wait_s = min(2 * wait_s, MAX_WAIT_S)

    def _catch_signals(self) -> None:
        for end in (self._signals, self._signals_in):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._signals_in, warn_on_full_buffer=False)
        for number in self._handlers:
            signal.signal(number, lambda *_: None)

    def _is_worker_after_fork(self, predecessor: handover.Predecessor | None) -> bool:
        parent_pid, token = os.getpid(), os.urandom(4).hex()
        lifeline, self._lifeline = os.pipe()
        self._status, self._works = None, False
        # Until the worker has its own handlers, a signal to it would be written into the parent's pipe.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._handlers)
        self._pid = os.fork()
        is_worker = self._pid == 0
        self._name = handover.worker_name(pid=self._pid or os.getpid(), token=token)
        if is_worker:
            self._become_worker(parent_pid, lifeline, predecessor)
        else:
            os.close(lifeline)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return is_worker

    def _become_worker(self, parent_pid: int, lifeline: int, predecessor: handover.Predecessor | None) -> None:
        handover.end_with_parent(parent_pid)
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for end in (self._signals, self._signals_in, self._lifeline):
            os.close(end)
        os.environ |= {handover.NAME: self._name, handover.PARENT: f"{parent_pid}:{lifeline}"}
        os.environ.pop(handover.PREDECESSOR, None)
        if predecessor is not None:
            os.environ[handover.PREDECESSOR] = predecessor.describe()

    def _await_end(self) -> int:
        while self._status is None:
            self._await_signal(None)
        os.close(self._lifeline)
        return self._status

    def _is_told_to_stop_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self._is_told_to_stop and (left_s := until - time.monotonic()) > 0:
            self._await_signal(left_s)
        return self._is_told_to_stop

    def _await_signal(self, timeout_s: float | None) -> None:
        """Wait for a signal. Pass on a request to stop; note that the worker works, or that processes have ended."""
        select.select([self._signals], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._signals, 1024):
                if number in _STOPS:
                    self._pass_on_stop()
                elif number == handover.WORKS:
                    self._works = True
        self._reap()

    def _pass_on_stop(self) -> None:
        self._is_told_to_stop = True
        if self._status is None:
            with contextlib.suppress(BrokenPipeError):  # the worker has just ended
                os.write(self._lifeline, b".")

    def _reap(self) -> None:
        """Collect the status of all ended processes: as PID 1 of a container the parent gets those of others too."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._pid:
                    self._status = ended[1]


def _end_like(status: int) -> None:
    """End as the worker did: with its exit code, or by the signal that ended it."""
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the worker has left its core file; a second one adds nothing
    with contextlib.suppress(OSError):  # SIGKILL has no handler
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sys.exit(128 + number)  # PID 1 does not die of its own signals
