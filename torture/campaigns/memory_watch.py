"""Notes the most memory that a process and its descendants take, by what they are."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType

from torture.plant.proc_files import family, proc_status_bytes

POLL_S = 0.1
# The program of a process, by a word in its command line.
_KINDS = {"decoder_program": "decoder process", "worker_program": "worker"}


class MemoryWatch:
    """A context manager that polls while it is entered. The kernel remembers the peak of each process until it ends."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.most_bytes: dict[str, int] = {}  # the largest peak of each kind of process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="memory watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def most_mb(self) -> dict[str, int]:
        """`most_bytes` in megabytes."""
        return {kind: size_bytes // 1_000_000 for kind, size_bytes in self.most_bytes.items()}

    def _poll(self) -> None:
        while not self._ended.wait(POLL_S):
            for pid in family(self._pid):
                with contextlib.suppress(OSError):  # it has just ended
                    self._note(pid)

    def _note(self, pid: int) -> None:
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        kind = next((kind for word, kind in _KINDS.items() if word in command), "other")
        if peak_bytes := proc_status_bytes(pid, "VmHWM"):  # none is left of a process that has ended
            self.most_bytes[kind] = max(self.most_bytes.get(kind, 0), peak_bytes)
