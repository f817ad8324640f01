"""Folders with irregular entries (`torture.corpus.irregular`) go through whole commands. A part of `files`.

Each command must end by itself, name each irregular entry with its reason, handle the good images beside it, and print
nothing that controls a terminal, in bounded time and memory.
"""

from __future__ import annotations

import csv
import io
import json
import re
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import Transient
from shared.printable import CONTROLS, printable
from shared.server.roles import Role
from shared.settings import Settings
from torture.campaigns.base import Figures
from torture.campaigns.memory_watch import MemoryWatch
from torture.corpus.case import REJECTED, SORTED
from torture.corpus.irregular import (
    CLASSES,
    NO_IMAGE,
    TOO_LARGE,
    Irregular,
    archives,
    backbones,
    make_folder,
    special_files,
)
from torture.history.follower import Entry
from torture.history.ledger import Submission
from torture.plant.plant import Plant
from torture.plant.processes import Process
from torture.server.waiting import wait_until

ENDS = "a command ends by itself, whatever its folder holds"
NAMES_ALL = "a command names each irregular entry with its reason"
HANDLES_GOOD = "good images beside irregular entries are handled"
PRINTS_CLEANLY = "a command prints no traceback, and nothing that controls a terminal"
BOUNDED = "a command takes no more time and memory for irregular entries than it may"

UPLOADED, CAMERA = "irregular-upload", "irregular-camera"  # lines
QUEUE = "bulk"
PROGRAM = "torture.campaigns.command_program"
# A command takes two seconds. What these entries did before they were refused would take for ever, or gigabytes.
MOST_S = 90.0
MOST_BYTES = 500_000_000
# The machine is safe whatever a command does. Threads reserve much of it that they never use.
ADDRESS_SPACE_BYTES = 8_000_000_000
# With bytes that are not UTF-8, which Python reads as surrogates.
_UNCLEAN = re.compile(f"[{CONTROLS}\ud800-\udfff]|Traceback")
# A folder camera names the first entry of each kind that it passes over.
CAMERA_KINDS = {
    "archives": r"files \*\.zip, such as '.*\.zip', are passed over",
    "pipes, sockets, devices": "is passed over: it is a pipe, socket or device",
    "broken links": "is passed over: it is a link that leads to no file",
    "links to folders": r"links to folders in .*, such as 'no cap/links/0/a', are not followed",
    "sparse file": rf"frame good/sparse\.jpg rejected: .*{TOO_LARGE}",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended, and what it printed to both streams."""

    what: str
    text: str
    seconds: float
    peak_bytes: int


@dataclass(slots=True)
class Run:
    """The commands so far, and how many entries they named."""

    plant: Plant
    settings: Settings
    folder: Path
    images: list[str]
    entries: list[Irregular]
    ended: list[Ended] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)

    def command(
        self, what: str, *arguments: str, module: str = PROGRAM, until: Callable[[str], object] | None = None
    ) -> str:
        """Run a command to its end; what it prints. With `until`, tell it to end when that is true of its text."""
        self.plant.options.on_progress(f"irregular entries, now: {what}")
        log = self.plant.options.folder / f"irregular-{len(self.ended):02}.log"
        variables = self.plant.environment_of(Role.PRODUCER, self.settings)
        began = time.monotonic()
        process = Process(module, *arguments, log=log, variables=variables)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
        with MemoryWatch(process.pid) as memory:
            self._wait(process, what, until=until)
        ended = Ended(what, _text_of(log), time.monotonic() - began, max(memory.most_bytes.values(), default=0))
        self.ended.append(ended)
        self.check_clean(what, ended.text)
        if ended.seconds > MOST_S or ended.peak_bytes > MOST_BYTES:
            self.plant.note(BOUNDED, f"{what}: {ended.seconds:.1f} s, {ended.peak_bytes:,} bytes")
        return ended.text

    def _wait(self, process: Process, what: str, *, until: Callable[[str], object] | None) -> None:
        try:
            if until is not None:
                is_done = until
                wait_until(
                    lambda: is_done(_text_of(process.log)) or process.exit_code is not None,
                    f"{what} has handled all entries",
                    timeout_s=MOST_S,
                )
                process.signal(signal.SIGTERM)
            code = process.wait(MOST_S)
            if code not in (0, 1, 2):
                self.plant.note(ENDS, f"{what}: exit code {code}; see {process.log}")
        except Transient as error:
            self.plant.note(ENDS, f"{what}: {error}")
        finally:
            process.kill()

    def check_clean(self, what: str, text: str) -> None:
        """Check that a text has no traceback, and nothing that controls a terminal."""
        for line in text.split("\n"):
            if _UNCLEAN.search(line):
                self.plant.note(PRINTS_CLEANLY, f"{what}: {line[:200]!r}")

    def check_named(self, what: str, reasons: Mapping[str, str], expected: Mapping[str, str]) -> None:
        """Check that each of these names has a reason that matches its pattern."""
        right = {name for name, pattern in expected.items() if re.search(pattern, reasons.get(name, ""))}
        self.named[what] = self.named.get(what, 0) + len(right)
        for name in sorted(expected.keys() - right):
            self.plant.note(NAMES_ALL, f"{what}, {name!r}: {reasons.get(name)!r}; expected {expected[name]!r}")

    def check_good(self, what: str, found: Iterable[str]) -> None:
        """Check that all good images are among these, by their printable names."""
        for name in sorted({printable(name) for name in self.images} - set(found)):
            self.plant.note(HANDLES_GOOD, f"{what}: {name!r}")


def send_irregular(plant: Plant, settings: Settings) -> Figures:
    """Run each command once over such a folder. A worker runs already."""
    folder = plant.options.folder / "irregular"
    entries = [*archives(), *special_files()]
    run = Run(plant, settings, folder, make_folder(folder, entries), entries)
    for one in (_classify, _check_dataset, _check_zips, _fetch_backbones, _upload, _camera):
        one(run)
    for worker in plant.workers:
        run.check_clean("the worker's log", _text_of(worker.log))
    slowest, largest = max(run.ended, key=lambda each: each.seconds), max(run.ended, key=lambda each: each.peak_bytes)
    return {
        "irregular entries": len(entries) + len(backbones()),
        "irregular entries named": run.named,
        "most for irregular entries": (
            f"{slowest.seconds:.1f} s ({slowest.what}), {largest.peak_bytes // 1_000_000:,} MB ({largest.what})"
        ),
    }


# commands ───────────────────────────────────────────────────────────────────────────────────────────


def _classify(run: Run) -> None:
    """It looks for images in folders by their names, and tries a file that is named itself, whatever its name is."""
    what = "classify"
    zips = [str(run.folder / CLASSES[0] / entry.name) for entry in archives()]
    text = run.command(what, what, str(run.folder), *zips)
    start = f"{run.folder}/"
    lines = [line.removeprefix(start) for line in text.split("\n") if line.startswith(start)]
    run.check_named(what, dict(line.split(": ", 1) for line in lines if ": " in line), _unopened(run))
    run.check_good(what, [line.partition("  good 1.000")[0] for line in lines if "  good 1.000" in line])


def _check_dataset(run: Run) -> None:
    """The folder is a dataset; its archives are not opened."""
    what = "check-dataset"
    run.check_named(what, _unreadable(run.command(what, "models", what, "--json", str(run.folder))), _unopened(run))
    shown = run.command(what, "models", what, str(run.folder))
    if f": {len(run.images)} images to learn from" not in shown:
        run.plant.note(HANDLES_GOOD, f"{what}: {shown[:500]!r}")


def _check_zips(run: Run) -> None:
    """Each archive is a dataset, with a member of the first class."""
    for entry in archives():
        path = run.folder / CLASSES[0] / entry.name
        text = run.command("check-dataset, zip", "models", "check-dataset", "--json", str(path))
        run.check_named("check-dataset, zip", {entry.name: text}, {entry.name: entry.reason})


def _fetch_backbones(run: Run) -> None:
    what = "fetch-backbone"
    for entry in backbones():
        path = run.plant.options.folder / entry.name
        entry.make(path)
        cache = run.plant.options.folder / "cache"
        text = run.command(what, "models", what, str(path), "--cache-dir", str(cache))
        run.check_named(what, {entry.name: text}, {entry.name: entry.reason})


def _upload(run: Run) -> None:
    what, table = "upload", run.plant.options.folder / "irregular.csv"
    run.command(what, what, str(run.folder), "--wait", "--line", UPLOADED, "--queue", QUEUE, "--out", str(table))
    text = _text_of(table).replace("\r\n", "\n") if table.exists() else ""
    run.check_clean(f"{what} --out", text)
    rows = {row["file"].removeprefix(f"{run.folder}/"): row for row in csv.DictReader(io.StringIO(text))}
    # The name of an archive's member follows the archive's.
    of_entry = {"/".join(name.split("/")[:2]): row["error"] for name, row in rows.items() if row["outcome"] == REJECTED}
    run.check_named(what, of_entry, {_shown(entry): entry.reason for entry in run.entries})
    run.check_good(what, [name for name, row in rows.items() if row["outcome"] == SORTED])
    _record(run.plant, UPLOADED)


def _camera(run: Run) -> None:
    """It never ends by itself, and its frames are named like the files."""
    what, entries = "camera", run.plant.follower.observed.entries

    def has_handled_all(text: str) -> bool:
        sent = sum(found[0].order[0] == CAMERA for found in list(entries.values()))
        return sent >= len(run.images) and all(re.search(pattern, text) for pattern in CAMERA_KINDS.values())

    arguments = ("--line", CAMERA, "--source", str(run.folder), "--recursive", "--queue", QUEUE, "--when-full", "block")
    text = run.command(what, what, *arguments, until=has_handled_all)
    run.check_named(what, dict.fromkeys(CAMERA_KINDS, text), CAMERA_KINDS)
    run.check_good(what, [str(entry.order[2]) for _, entry in _results(run.plant, CAMERA) if entry.outcome == SORTED])
    _record(run.plant, CAMERA)


def _text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _shown(entry: Irregular) -> str:
    return f"{CLASSES[0]}/{printable(entry.name)}"


def _unopened(run: Run) -> dict[str, str]:
    """The reasons where archives are not opened, by name."""
    names = {entry.name for entry in archives()}
    return {_shown(entry): NO_IMAGE if entry.name in names else entry.reason for entry in run.entries}


def _unreadable(text: str) -> dict[str, str]:
    """The reasons in a dataset's report, which follows some lines of progress."""
    begin = text.find("{\n")
    report = json.JSONDecoder().raw_decode(text[begin:])[0] if begin >= 0 else {"unreadable": []}
    return {each["file"]: each["reason"] for each in report["unreadable"]}


def _results(plant: Plant, line: str) -> Iterator[tuple[str, Entry]]:
    wait_until(plant.follower.is_up_to_date, "all results are read")
    for job_id, found in plant.follower.observed.entries.items():
        if found[0].order[0] == line:
            yield job_id, found[0]


def _record(plant: Plant, line: str) -> None:
    """Write to the ledger what a command has sent. It wrote none itself, so this is taken from the results."""
    results = list(_results(plant, line))
    ledger = plant.open_ledger()
    ledger.attempt([Submission._make((job_id, *entry.order, QUEUE, "plain", None)) for job_id, entry in results])
    ledger.accepted([job_id for job_id, _ in results], sent_at=time.time())
