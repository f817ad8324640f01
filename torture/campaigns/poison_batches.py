"""The first part of `poison`: one worker takes a queue of 400 images in batches, and some of them crash it.

All images wait when the worker starts, so that a batch that holds a marked image is full of plain ones.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from torture.campaigns.poison_observer import Marked, Observer
from torture.plant.images import ImageMaker
from torture.plant.plant import SETTLE_S, Plant
from torture.plant.sender import Sender
from torture.server.waiting import wait_until

IMAGES = 400
POLL_S = 0.1


class Case(NamedTuple):
    """How many of the images are marked, and how large the worker's batches are."""

    marked: int
    max_batch: int


CASES = (Case(1, 16), Case(1, 32), Case(5, 16), Case(5, 32))


def sort_batches(
    plant: Plant, observer: Observer, sender: Sender, *, cases: Sequence[Case]
) -> tuple[dict[str, float], list[Marked]]:
    """The seconds until all images of each case have ended, from the worker's start, and the marked images."""
    seconds: dict[str, float] = {}
    marked: list[Marked] = []
    for case in cases:
        name = f"{case.marked} marked, batches of {case.max_batch}"
        plant.options.on_progress(f"{IMAGES} images, {name}")
        marked += _send(plant, sender, marked=case.marked)
        seconds[name] = round(_sort(plant, observer, max_batch=case.max_batch), 1)
    return seconds, marked


def _send(plant: Plant, sender: Sender, *, marked: int) -> list[Marked]:
    """Send the images, with the marked ones spread evenly among them. Returns the marked ones."""
    maker = ImageMaker(plant.random.getrandbits(32))
    places = {round(IMAGES * (number + 1) / (marked + 1)) for number in range(marked)}
    images = [
        (maker.make("abort"), "abort") if number in places else (maker.make(), "plain") for number in range(IMAGES)
    ]
    submissions = sender.send(images, plant.settings)
    return [
        Marked(kind, submission.job_id, hashlib.sha256(data).hexdigest())
        for (data, kind), submission in zip(images, submissions, strict=True)
        if kind != "plain"
    ]


def _sort(plant: Plant, observer: Observer, *, max_batch: int) -> float:
    """Have one worker sort all waiting images. Returns the seconds that it took. Unsorted images are noted later."""
    worker = plant.start_worker(plant.settings.model_copy(update={"max_batch": max_batch}), is_restarted=True)
    began = time.monotonic()
    while plant.outstanding() and time.monotonic() - began < SETTLE_S:
        worker.require_alive()
        observer.poll()
        time.sleep(POLL_S)
    took_s = time.monotonic() - began
    wait_until(lambda: observer.is_settled, "the worker is ready")
    observer.poll()
    plant.drain_worker(worker)
    return took_s
