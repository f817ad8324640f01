"""Local workers: knows which other workers on this host are gone, from their processes or because it was told.

Used by the lease keeper. Workers exchange their process ids through the server, with worker/rq/scripts/reap.lua.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from worker.rq.processes import Processes

log = logging.getLogger("sortline.local_workers")

# A worker that is gone is forgotten after this many consecutive steps that found no job of its. One step is not enough:
# a command that the worker sent before its end may reach the server after that step.
QUIET_STEPS = 2


class LocalWorkers:
    """Knows which workers are gone, for one lease keeper.

    Without `processes`, or while the server can't list them, these are only the workers given to `mark_ended`. Other
    dead workers are then noticed when their leases expire.
    """

    def __init__(self, processes: Processes | None) -> None:
        self._processes = processes
        # Each worker's processes by the worker's name, as the server last listed them. This worker is among them and
        # not gone: the script writes its processes before it lists them.
        self._listed: dict[str, str] = {}
        self._ended: dict[str, str] = {}  # workers given to `mark_ended`, and how they crashed
        self._quiet_steps: dict[str, int] = {}  # of each worker that is gone
        self._refusal = ""  # the server's words when it last refused to list them

    @property
    def scope(self) -> str:
        """Identifies the set of processes that this worker can check; "" if it can check none."""
        return "" if self._processes is None else self._processes.scope

    @property
    def process(self) -> str:
        """This worker's own process, and its parent's; "" without a scope."""
        return "" if self._processes is None else self._processes.describe_own()

    def mark_ended(self, worker: str, *, crash: str) -> None:
        """Note that a worker is gone, and how it crashed; "" if nobody saw it crash."""
        self._ended[worker] = crash

    def find_gone(self) -> tuple[dict[str, str], list[str]]:
        """Workers that are gone: first those that may hold jobs, with how each crashed; then those to be forgotten."""
        gone = {name: "" for name, process in self._listed.items() if self._is_gone(process)} | self._ended
        self._quiet_steps = {name: self._quiet_steps.get(name, 0) for name in gone}
        forgotten = [name for name in gone if self._quiet_steps[name] >= QUIET_STEPS]
        for name in forgotten:
            del gone[name]
        return gone, forgotten

    def any_newly_gone(self) -> bool:
        """Whether a worker is gone whose jobs no step has looked for yet."""
        return any(name not in self._quiet_steps and self._is_gone(process) for name, process in self._listed.items())

    def observe(self, *, listed: Sequence[bytes], taken: Mapping[str, int], refusal: bytes) -> None:
        """Process the answer of a step.

        Args:
            listed: names and processes of workers, alternating.
            taken: how many jobs the step took back from each worker that is gone.
            refusal: why the server could not list the workers; empty if it could.
        """
        texts = [item.decode(errors="surrogateescape") for item in listed]
        self._listed = dict(zip(texts[::2], texts[1::2], strict=True))
        for name, jobs in taken.items():
            crash = self._ended.get(name)
            if jobs and crash:
                log.error("worker %.200r crashed (%s): took %d jobs back, to try each alone", name, crash, jobs)
            elif jobs:
                log.warning("worker %.200r on this host is gone: took %d jobs back", name, jobs)
            if crash:
                # The crash can't come from jobs of a claim that reaches the server only now: the worker never got them.
                self._ended[name] = ""
            self._quiet_steps[name] = 0 if jobs else self._quiet_steps.get(name, 0) + 1
        for name in [*self._ended]:
            if self._quiet_steps.get(name, 0) >= QUIET_STEPS and name not in self._listed:
                del self._ended[name]
        text = refusal.decode(errors="replace")
        if text and text != self._refusal:
            log.warning(
                "jobs of a worker that died on this host return when their leases run out, not at once: %s", text
            )
        self._refusal = text

    def _is_gone(self, process: str) -> bool:
        return self._processes is not None and self._processes.is_worker_gone(process)
