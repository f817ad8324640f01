"""`poison`: among plain images, some crash the worker that decodes them, or make its decoder hang for ever.

The workers run below parent processes that replace them, as those of `sortline worker` do. Each marked image must end
as `failed` before it has taken down many workers, and every plain one must be sorted.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence

from shared import keys
from shared.jobs import MAX_CRASHES
from shared.schemas import Outcome
from torture.campaigns.base import Figures, Limits
from torture.campaigns.poison_batches import CASES, IMAGES, sort_batches
from torture.campaigns.poison_observer import Marked, Observer
from torture.history.leftovers import read_statuses
from torture.plant.feeder import FeederOptions
from torture.plant.images import MARKS, ImageMaker, bad_images
from torture.plant.plant import SETTLE_S, Plant
from torture.plant.sender import Sender
from torture.server.waiting import PATIENCE_S, wait_until

WORKERS = 3
FEEDERS = 2
FEEDER_OPTIONS = FeederOptions(rate_hz=50.0)
# Plain images sent with each marked one in the same call, so that one worker holds them together.
PLAIN_PER_MARKED = 7
# Short, so that a run sees many deaths, but far longer than any plain image takes.
STUCK_AFTER_S = 2.0
# A job fails after this many deaths of its workers from unknown causes. A cause stays unknown if the worker's successor
# starts so slowly that the lease runs out first. From the third such death on the job is tried alone, so that no plain
# image gets this far.
MAX_LOSSES = 6
# A job is tried again while it has fewer crashes than MAX_CRASHES and fewer losses than MAX_LOSSES.
MOST_DEATHS = MAX_CRASHES + MAX_LOSSES - 1
# At most one image of each mark is sent in this time, and at most this many are in the plant at once, because each of
# them takes down several workers.
MARK_EVERY_S = 1.0
MOST_AT_ONCE = {"abort": 2, "hang": 1}
POLL_S = 0.1
# A run of at least this length begins with all CASES, a shorter one with the first case only.
LONG_RUN_S = 30.0


def poison(plant: Plant, limits: Limits) -> Figures:
    """Send until the time is over and each kind of image was sent; then wait until all have ended."""
    quick = plant.settings.model_copy(update={"stuck_after_s": STUCK_AFTER_S, "max_losses": MAX_LOSSES})
    observer = Observer(plant)
    sender = Sender(plant, lines=FEEDER_OPTIONS.lines)
    cases = CASES if limits.seconds >= LONG_RUN_S else CASES[:1]
    seconds, in_batches = sort_batches(plant, observer, sender, cases=cases)
    plant.start_workers(WORKERS, quick, are_restarted=True)
    plant.start_feeders([FEEDER_OPTIONS] * FEEDERS)
    poisoner = Poisoner(plant, observer, sender)
    until = time.monotonic() + limits.seconds
    while (late_s := time.monotonic() - until) < 0 or (late_s < PATIENCE_S and not poisoner.has_sent_all_kinds):
        plant.options.on_progress(", ".join(f"{kind}: {count}" for kind, count in poisoner.sent.items()))
        poisoner.send()
        observer.poll()
        time.sleep(plant.random.uniform(0, 2 * POLL_S))
    plant.stop_feeders()
    plant.options.on_progress("waiting for the last marked images to end")
    settled_by = time.monotonic() + SETTLE_S
    while (plant.outstanding() or not observer.is_settled) and time.monotonic() < settled_by:
        observer.poll()
        time.sleep(POLL_S)
    wait_until(plant.follower.is_up_to_date, "all results are read")
    obeyed = check_promises(plant, [*in_batches, *poisoner.marked], observer)
    return {
        f"{IMAGES} images, s": seconds,
        "sent": dict(poisoner.sent),
        "marks obeyed": obeyed,
        "most for one image": _most_deaths(plant),
        "workers replaced": dict(observer.causes),
    }


def check_promises(plant: Plant, marked: Sequence[Marked], observer: Observer) -> dict[str, int]:
    """Check the promises that only this campaign can check. Returns how often each mark was obeyed."""
    record = _read_marks(plant)
    obeyed, deaths = Counter(mark for _, mark, _ in record), Counter(digest for _, _, digest in record)
    for mark in MARKS:
        if not obeyed[mark]:
            plant.note("each mark was obeyed, or the run proves nothing", f"{mark}: never")
    for image in marked:
        if deaths[image.digest] > MOST_DEATHS:
            example = f"{image.job_id}, {image.mark}: {deaths[image.digest]}"
            plant.note(f"a marked image takes down no more than {MOST_DEATHS} workers", example)
        for entry in plant.follower.observed.entries.get(image.job_id, ()):
            if not (entry.error or "").startswith("Quarantined"):
                plant.note("a marked image is quarantined, and its result says why", f"{image.job_id}: {entry.error}")
    pids = {mark: {int(pid) for pid, by, _ in record if by == mark} for mark in MARKS}
    if pids["abort"] != observer.aborted:
        example = f"processes {pids['abort']} met the mark, {observer.aborted} were aborted"
        plant.note("only a mark makes a worker crash", example)
    hung = pids["hang"] - observer.aborted  # the others crashed before they were found to hang
    if hung != observer.hung:
        example = f"processes {hung} met the mark, {observer.hung} ended because a call hung"
        plant.note("a worker in which a call hangs is replaced, and no other", example)
    if silent := hung - observer.unhealthy:
        plant.note("a worker that hangs says that it is unhealthy", f"processes {silent} did not")
    return dict(obeyed)


def _read_marks(plant: Plant) -> list[list[str]]:
    """Process id, mark and image of each mark that was obeyed."""
    return [line.split() for line in plant.marks.read_text().splitlines()]


def _most_deaths(plant: Plant) -> int:
    return max(Counter(digest for _, _, digest in _read_marks(plant)).values(), default=0)


class Poisoner:
    """Sends marked images, and files that are not usable images."""

    def __init__(self, plant: Plant, observer: Observer, sender: Sender) -> None:
        self._plant = plant
        self._observer = observer
        self._sender = sender
        self._images = ImageMaker(plant.random.getrandbits(32))
        self._bad = bad_images()
        self._due = dict.fromkeys(MARKS, 0.0)
        self.marked: list[Marked] = []
        self.sent: Counter[str] = Counter(dict.fromkeys((*MARKS, *self._bad), 0))
        plant.allowed_outcomes |= dict.fromkeys(MARKS, (Outcome.FAILED,))
        plant.allowed_outcomes |= dict.fromkeys(self._bad, (Outcome.REJECTED,))

    @property
    def has_sent_all_kinds(self) -> bool:
        """Whether each kind was sent at least once."""
        return all(self.sent.values())

    def send(self) -> None:
        """Send one image. Of the kinds that may be sent now, it takes the one that was sent least."""
        kinds = [kind for kind in self.sent if self._may_send(kind)]
        if not kinds:
            return
        kind = min(kinds, key=lambda kind: (self.sent[kind], self._plant.random.random()))
        self.sent[kind] += 1
        if kind in self._bad:
            self._sender.send([(self._bad[kind], kind)], self._plant.settings)
        else:
            self._send_marked(kind)

    def _send_marked(self, mark: str) -> None:
        self._due[mark] = time.monotonic() + MARK_EVERY_S
        images = [(self._images.make(), "plain") for _ in range(PLAIN_PER_MARKED)]
        place = self._plant.random.randint(0, PLAIN_PER_MARKED)
        images.insert(place, (self._images.make(mark), mark))
        job_id = self._sender.send(images, self._plant.settings)[place].job_id
        if mark == "hang" and self.sent[mark] == 1:
            # A short run sends only this one. It begins with nearly as many deaths as are allowed, because waiting
            # until it has hung that many workers would take a minute.
            deaths = {keys.CRASHES: MAX_CRASHES - 1, keys.LOSSES: MAX_LOSSES - 1}
            self._plant.client.hset(keys.rq_job(job_id), mapping=deaths)
        self.marked.append(Marked(mark, job_id, hashlib.sha256(images[place][0]).hexdigest()))

    def _may_send(self, kind: str) -> bool:
        if time.monotonic() < self._due.get(kind, 0.0):
            return False
        if kind == "abort" and not self._observer.hung:
            return False  # a crash must not end the first worker that hangs before it was found to be unhealthy
        if kind == "hang" and self.sent[kind] and not self.has_sent_all_kinds:
            return False  # a short run ends after one image of each mark
        job_ids = [marked.job_id for marked in self.marked if marked.mark == kind]
        statuses = read_statuses(self._plant.client, job_ids)
        return sum(status in (b"queued", b"started") for status in statuses) < MOST_AT_ONCE.get(kind, 1)
