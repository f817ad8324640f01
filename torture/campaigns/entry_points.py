"""The entry points of the campaign `files`: each takes the files of a folder, and gives an answer for each of them."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from producer.camera import Camera
from producer.camera_options import CameraOptions, WhenFull
from producer.folder_camera import FolderFlags, open_folder
from producer.frames import Frame, PreparedJob
from producer.submit import LineProducer
from producer.upload import Uploader, UploadOptions
from producer.upload_inputs import list_inputs
from shared.errors import BadInput
from shared.printable import printable
from shared.settings import Settings, environment
from torture.corpus.case import REJECTED, SORTED, Case
from torture.history.ledger import LedgerWriter, Submission, submission_of
from torture.plant.plant import SETTLE_S, Plant
from torture.plant.processes import Process
from torture.server.waiting import wait_until

LINE, QUEUE = "line-1", "bulk"
KIND = "file"  # in the ledger: it may be sorted or rejected, and the campaign checks which
# The longest that all files may take at one entry point.
ENTRY_POINT_S = 1800.0
_MAX_FRAME_ID = 256


class Answer(NamedTuple):
    """What became of a file. `seconds` of processor time, and memory, are 0 where nobody measures them."""

    outcome: str
    text: str | None
    seconds: float = 0.0
    peak_bytes: int = 0


Answers = Mapping[str, Answer]


# without a worker ───────────────────────────────────────────────────────────────────────────────────


def ask_program(plant: Plant, entry_point: str, folder: Path) -> Answers:
    """The answers of `torture.campaigns.entry_point_program`. Notes the file that ends it."""
    answers_file = plant.options.folder / f"{entry_point}.jsonl"
    answers_file.touch()
    log = plant.options.folder / f"{entry_point}.log"
    arguments = (entry_point, str(folder), str(answers_file))
    variables = environment(plant.settings)
    process = Process("torture.campaigns.entry_point_program", *arguments, log=log, variables=variables)
    try:
        code = process.wait(ENTRY_POINT_S)
    finally:
        process.kill()
    lines = [json.loads(line) for line in answers_file.read_text().splitlines()]
    if code != 0:
        last = lines[-1]["file"] if lines else "none"
        plant.note(f"no file ends {entry_point}", f"exit code {code} at {last!r}; see {log}")
    done = [line for line in lines if "outcome" in line]
    return {line["file"]: Answer(line["outcome"], line["text"], line["seconds"], line["peak_bytes"]) for line in done}


# through a worker ───────────────────────────────────────────────────────────────────────────────────


def upload(plant: Plant, folder: Path, cases: Sequence[Case], settings: Settings) -> Answers:
    """The answers of `upload --wait`. The ledger is written afterwards, because the uploader makes its own jobs."""
    plant.allowed_outcomes[KIND] = (SORTED, REJECTED)
    began_at = time.time()
    options = UploadOptions(line=LINE, queue=QUEUE, wait=True, timeout_s=SETTLE_S)
    rows = Uploader(options, settings).run(list(list_inputs([folder])))
    results = [row.result for row in rows if row.result is not None]
    ledger = plant.open_ledger()
    ledger.attempt(
        [
            Submission(each.job_id, each.line, each.camera, each.frame_id, None, each.captured_at, QUEUE, KIND)
            for each in results
        ]
    )
    ledger.accepted([each.job_id for each in results], sent_at=began_at)
    by_file = {row.file: Answer(row.outcome, row.error or None) for row in rows}
    return _by_name(cases, lambda name: by_file.get(printable(folder / name)))


class RecordingProducer(LineProducer):
    """A producer that records what it sends in the ledger, and which frames it refuses."""

    def __init__(self, settings: Settings, ledger: LedgerWriter) -> None:
        super().__init__(settings)
        self._ledger = ledger
        self.refused: dict[str, str] = {}  # by frame_id: why
        self.sent: dict[str, str] = {}  # by frame_id: the job

    def prepare(self, frame: Frame, *, job_id: str | None = None) -> PreparedJob:
        """As any producer."""
        try:
            job = super().prepare(frame, job_id=job_id)
        except BadInput as error:
            self.refused[str(frame.frame_id)] = str(error)
            raise
        self._ledger.attempt([submission_of(frame, job.job_id, kind=KIND)])
        self.sent[str(frame.frame_id)] = job.job_id
        return job

    def send(self, jobs: Sequence[PreparedJob], *, partial: bool = False) -> None:
        """As any producer."""
        sent_at = time.time()
        super().send(jobs, partial=partial)
        self._ledger.accepted([job.job_id for job in jobs], sent_at=sent_at)


def send_by_camera(plant: Plant, folder: Path, cases: Sequence[Case], settings: Settings) -> Answers:
    """The answers to what a folder camera sends."""
    options = CameraOptions(
        line=LINE, camera="folder", queue=QUEUE, count=len(cases), when_full=WhenFull.BLOCK, rate_hz=0.0
    )
    producer = RecordingProducer(settings, plant.open_ledger())
    source = open_folder(str(folder), FolderFlags(), settings, line=LINE, camera=options.camera, max_age_s=None)
    stop = threading.Event()
    timer = threading.Timer(ENTRY_POINT_S, stop.set)
    timer.daemon = True
    timer.start()
    with closing(source), closing(producer), _silenced("producer.camera"):  # it logs a line for each file
        Camera(options, source, producer, stop=stop).run()
    timer.cancel()
    entries = plant.follower.observed.entries
    wait_until(
        lambda: all(job_id in entries for job_id in producer.sent.values()), "the files are sorted", timeout_s=SETTLE_S
    )

    def answer(name: str) -> Answer | None:
        frame_id = printable(name)[-_MAX_FRAME_ID:]
        if frame_id in producer.refused:
            return Answer(REJECTED, producer.refused[frame_id])
        found = entries.get(producer.sent.get(frame_id, ""), ())
        return Answer(found[0].outcome, found[0].error) if found else None

    return _by_name(cases, answer)


@contextlib.contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Log no warnings under this name."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _by_name(cases: Sequence[Case], answer_to: Callable[[str], Answer | None]) -> Answers:
    found = {case.name: answer_to(case.name) for case in cases}
    return {name: answer for name, answer in found.items() if answer is not None}
