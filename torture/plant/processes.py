"""Processes of the torture: campaigns start them and send them signals. They end with the caller (see `lifeline`)."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import urllib.parse
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from shared.errors import BadSetting, Transient
from shared.subprocesses import own_command
from torture.plant.proc_files import proc_status_bytes
from torture.plant.worker_program import RESTARTED
from torture.server.waiting import PATIENCE_S


class Process:
    """`python -m MODULE ARGUMENTS…`, with a log file. `what` is its name in messages."""

    what = "the process"

    def __init__(self, module: str, *arguments: str, log: Path, variables: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603  # our own programs
                own_command(*arguments, module=module),
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env={**os.environ, **variables},
                process_group=0,  # Ctrl-C reaches the torture alone, which ends its processes; see also `lifeline`
            )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; -N after signal N."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        self._process.kill()
        self._reap(PATIENCE_S)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the end; the exit code.

        Raises:
            Transient: it did not end in time, and was killed.
        """
        try:
            return self._reap(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Transient(f"{self.what} did not end within {timeout_s:.0f} s; see {self.log}") from None

    def require_alive(self) -> None:
        """Check that it runs. At its start, a campaign can do nothing without its processes.

        Raises:
            BadSetting: it has ended; quotes the last line of its log.
        """
        if self.exit_code is not None:
            last_line = (self.log.read_text(errors="replace").strip() or "nothing in its log").splitlines()[-1]
            raise BadSetting(f"{self.what} ended with exit code {self.exit_code}: {last_line} ({self.log})")

    def _reap(self, timeout_s: float) -> int:
        code = self._process.wait(timeout_s)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code


class Restart(NamedTuple):
    """A worker that died and whose place another one took."""

    worker: str
    cause: str  # as its parent has logged it

    @property
    def pid(self) -> int:
        """Its process id, which is part of its name."""
        return int(self.worker.rsplit("-", 2)[1])


class WorkerProcess(Process):
    """One worker, or the parent process of one. The log has its name and the address of its metrics."""

    what = "a worker"

    def __init__(
        self, number: int, *, engine: str, folder: Path, variables: Mapping[str, str], is_restarted: bool = False
    ) -> None:
        """`is_restarted`: a parent process starts another worker when this one dies."""
        log = folder / f"worker-{number:05d}.log"
        arguments = [engine, RESTARTED] if is_restarted else [engine]
        super().__init__("torture.plant.worker_program", *arguments, log=log, variables=variables)
        self._is_restarted = is_restarted
        self._name: str | None = None

    @property
    def name(self) -> str | None:
        """The worker's name, as its results have it; None until it is ready to claim."""
        if self._name is None or self._is_restarted:
            self._name = self._find_in_log(r"worker (\S+) sorts ")
        return None if self._name in [restart.worker for restart in self.restarts()] else self._name

    def restarts(self) -> list[Restart]:
        """The workers that its parent has replaced so far, in this order."""
        if not self._is_restarted:
            return []
        return [
            Restart(*found) for found in re.findall(r"worker (\S+) (.+); another one takes its place", self._read())
        ]

    def counter(self, name: str) -> int:
        """The value of one of its metrics: the sum over all labels.

        Raises:
            OSError: it does not answer.
        """
        _, text = self._get("/metrics")
        families = text_string_to_metric_families(text)
        return int(sum(sample.value for family in families for sample in family.samples if sample.name == name))

    def peak_memory_bytes(self) -> int:
        """The most memory that its process has ever had, by the kernel's count; 0 if it has ended."""
        try:
            return proc_status_bytes(self.pid, "VmHWM")
        except OSError:
            return 0

    def health_problem(self) -> str | None:
        """What is wrong according to its `/healthz`; None if nothing is.

        Raises:
            OSError: it does not answer.
        """
        status, text = self._get("/healthz")
        return None if status == HTTPStatus.OK else text

    def _get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        url = self._find_in_log(r"metrics on (http://\S+)")
        if url is None:
            raise ConnectionError("the worker has not logged the address of its metrics")
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except http.client.HTTPException as error:  # it ended while it answered
            raise ConnectionError(f"the worker broke off its answer: {error!r}") from error
        finally:
            connection.close()

    def _find_in_log(self, pattern: str) -> str | None:
        """The last match in the log."""
        found = re.findall(pattern, self._read())
        return str(found[-1]) if found else None

    def _read(self) -> str:
        return self.log.read_text(errors="replace")


class FeederProcess(Process):
    """One producer (`torture.plant.feeder`), and its ledger."""

    what = "a producer"

    def __init__(self, *arguments: str, ledger: Path, variables: Mapping[str, str]) -> None:
        super().__init__(
            "torture.plant.feeder", str(ledger), *arguments, log=ledger.with_suffix(".log"), variables=variables
        )
        self._ledger = ledger

    @property
    def is_sending(self) -> bool:
        """Whether it has begun to send. From then on it obeys SIGTERM."""
        return self._ledger.stat().st_size > 0
