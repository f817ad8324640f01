"""Each contender does the work that it is credited with, on a real server, in processes of its own."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
import redis

from bench.contenders import sortline_worker
from bench.contenders.bare_scripts import STEP_JOBS, bare_rate
from bench.contenders.no_queue import decoded_ahead
from bench.contenders.sortline_worker import (
    LINE,
    REPLAYED,
    bench_settings,
    drained_rate,
    fill_queue,
    in_process,
    sortline_rate,
    two_workers_rate,
)
from bench.engines import null
from shared import keys
from shared.errors import Transient
from shared.settings import Settings
from tests.bench.meeting import meeting_null_model
from tests.worker.kit import ToneEngine, fetch, frame, loaded_model, picture, stream, submit
from tests.worker.step_inputs import shade

pytestmark = pytest.mark.bench


def test_every_fill_has_the_same_images_each_as_a_job_of_its_own(settings: Settings, client: redis.Redis) -> None:
    first = fill_queue(settings, count=90, size="64x48")
    client.set("left", "over")
    again = fill_queue(settings, count=90, size="64x48")
    assert again == first
    assert not client.exists("left")
    job_ids = client.lrange(keys.rq_queue("live"), 0, -1)
    assert len(set(job_ids)) == 90
    assert [client.get(keys.image(job_id.decode())) for job_id in job_ids] == first
    different = Counter(hashlib.sha256(image).digest() for image in first)
    assert len(different) == REPLAYED  # after these, the first ones are sent again


def test_a_fill_that_does_not_fit_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = settings.model_copy(update={"queue_max_items": 20, "line_share": 1.0})
    monkeypatch.setattr(sortline_worker, "without_bounds", lambda _: bounded)
    with pytest.raises(Transient, match="left 20 images on the queue instead of 30"):
        fill_queue(settings, count=30, size="64x48")


def test_the_scripts_alone_finish_every_job_as_rq_would_have_it(settings: Settings, client: redis.Redis) -> None:
    count = 2 * STEP_JOBS + 5
    job_ids = submit(settings, *(frame(line=LINE) for _ in range(count)))
    assert bare_rate(settings, count=count) > 0
    assert {fetch(client, job_id).get_status().value for job_id in job_ids} == {"finished"}
    assert client.zcard(keys.rq_wip("live")) == 0
    assert len(stream(client, LINE)) == count
    assert not client.exists(*map(keys.image, job_ids))


def test_a_run_that_did_not_do_all_is_void(settings: Settings) -> None:
    submit(settings, *(frame(line=LINE) for _ in range(4)))
    with pytest.raises(Transient, match="4 jobs instead of 5"):
        bare_rate(settings, count=5)
    with pytest.raises(Transient, match="4 results instead of 5"):
        drained_rate(settings, count=5)


def test_one_worker_or_two_empty_the_queue(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = bench_settings(settings)
    submit(quiet, *(frame(line=LINE) for _ in range(60)))
    assert sortline_rate(quiet, count=60, null=True) > 0
    client.flushdb()
    submit(quiet, *(frame(line=LINE) for _ in range(600)))
    # One worker takes 600 jobs in less than a tenth of a second: if it did not wait, the other might get none.
    monkeypatch.setattr(null, "null_model", meeting_null_model)
    assert two_workers_rate(quiet, count=600) > 0
    assert len({result.worker for result in stream(client, LINE)}) == 2


def test_a_worker_that_dies_is_not_taken_for_a_slow_one() -> None:
    with pytest.raises(Transient, match="process died"):
        in_process(exit_at_once)


def exit_at_once() -> None:
    import os

    os._exit(3)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_baseline_decodes_every_image_once_and_in_order(settings: Settings, threads: int) -> None:
    tones = [10 * number for number in range(14)]
    images = [picture(tone) for tone in tones]
    batches = list(decoded_ahead(loaded_model(settings, ToneEngine()), images, batch_size=4, threads=threads))
    assert [len(batch) for batch in batches] == [4, 4, 4, 2]
    assert np.array_equal(np.concatenate(batches), np.stack([shade(tone) for tone in tones]))
