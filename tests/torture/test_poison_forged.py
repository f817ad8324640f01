"""What `poison` and `forged` are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from producer import LineProducer
from shared import keys
from shared.errors import BadImage
from shared.images.decoding import decode_image
from shared.settings import Settings
from torture.campaigns.poison import MOST_DEATHS, check_promises
from torture.campaigns.poison_observer import Marked, Observer
from torture.history.leftovers import read_leftovers
from torture.plant.images import bad_images
from torture.plant.plant import Plant, PlantOptions

# what `poison` itself holds a run to ────────────────────────────────────────────────────────────────

NOTHING_PROVEN = "each mark was obeyed, or the run proves nothing"
CRASHED = "only a mark makes a worker crash"
REPLACED = "a worker in which a call hangs is replaced, and no other"
IMAGE = Marked("abort", "job", digest="d1")


@pytest.mark.parametrize(
    ("record", "aborted", "hung", "unhealthy", "broken"),
    [
        ("1 abort d1\n2 abort d1\n3 hang d2\n", {1, 2}, {3}, {3}, set()),
        ("1 abort d1\n2 hang d2\n1 hang d2", {1}, {2}, {2}, set()),
        ("", set(), set(), set(), {NOTHING_PROVEN}),
        ("1 abort d1\n", {1}, set(), set(), {NOTHING_PROVEN}),
        ("1 abort d1\n3 hang d2\n", {1, 2}, {3}, {3}, {CRASHED}),
        ("1 abort d1\n3 hang d2\n", set(), {3}, {3}, {CRASHED}),
        ("1 abort d1\n3 hang d2\n", {1}, {3}, set(), {"a worker that hangs says that it is unhealthy"}),
        ("1 abort d1\n3 hang d2\n", {1}, set(), {3}, {REPLACED}),
        ("1 abort d1\n3 hang d2\n", {1}, {3, 4}, {3}, {REPLACED}),
        (
            "".join(f"{pid} abort d1\n" for pid in range(MOST_DEATHS + 1)) + "99 hang d2\n",
            set(range(MOST_DEATHS + 1)),
            {99},
            {99},
            {f"a marked image takes down no more than {MOST_DEATHS} workers"},
        ),
    ],
)
def test_what_poison_must_prove(
    settings: Settings,
    tmp_path: Path,
    record: str,
    aborted: set[int],
    hung: set[int],
    unhealthy: set[int],
    broken: set[str],
) -> None:
    with Plant(
        PlantOptions(settings=settings, folder=tmp_path, server=None, engine="null", seed=1, on_progress=print)
    ) as plant:
        plant.marks.write_text(record)
        observer = Observer(plant)
        observer.aborted, observer.hung, observer.unhealthy = aborted, hung, unhealthy
        check_promises(plant, [IMAGE], observer)
        assert plant.broken.keys() == broken
        plant.follower.stop()


# what can't be sorted ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", bad_images())
def test_a_bad_image_is_accepted_from_the_producer_and_rejected_by_the_decoder(
    settings: Settings, client: redis.Redis, kind: str
) -> None:
    data = bad_images()[kind]
    LineProducer(settings).submit(data, line="line-1", camera="camera-1")
    with pytest.raises(BadImage):
        decode_image(data, size_px=8)


# what may stay ─────────────────────────────────────────────────────────────────────────────────────


def test_a_key_that_is_expected_is_not_left_over(settings: Settings, client: redis.Redis) -> None:
    client.set(keys.rq_job("forged"), "no hash")
    assert read_leftovers(client, queues=settings.queue_names) == {"job without an end": ["forged none"]}
    assert not read_leftovers(client, queues=settings.queue_names, expected={keys.rq_job("forged")})
