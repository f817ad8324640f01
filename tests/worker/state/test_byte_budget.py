"""The bound on the bytes that wait for a step."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from worker import pipeline as pipeline_step
from worker.models.routing import Serving
from worker.state.byte_budget import ByteBudget


def test_bytes_are_taken_until_they_are_given_back() -> None:
    budget = ByteBudget(100)
    budget.take(30)
    assert budget.wait_for_capacity(0) == 70
    budget.take(90)  # the last one may exceed the budget
    assert budget.wait_for_capacity(0) == 0
    budget.give_back(90)
    assert budget.wait_for_capacity(0) == 70


def test_waiting_ends_when_something_is_given_back() -> None:
    budget = ByteBudget(10)
    budget.take(10)
    found: list[int] = []
    waits = threading.Thread(target=lambda: found.append(budget.wait_for_capacity(100 * kit.PATIENCE_S)), daemon=True)
    waits.start()
    budget.give_back(4)
    waits.join(kit.PATIENCE_S)
    assert found == [4]


def test_a_worker_claims_no_more_than_its_decoders_can_take(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no image is decoded, the worker exceeds the bound by one image at most; later all are sorted."""
    image = kit.picture()
    monkeypatch.setattr(pipeline_step, "MAX_ENCODED_BYTES", 3 * len(image) - 1)
    job_ids = kit.submit(settings, *[frame(image) for _ in range(20)])
    model, opened = kit.model(), threading.Event()

    class WhenOpened:
        def __call__(self, data: bytes, camera: str) -> kit.Pixels:
            raise AssertionError("decodes into the batch buffer")

        def is_costly(self, data: bytes, camera: str) -> bool:
            return False

        def decode_into(self, data: bytes, camera: str, out: kit.Pixels) -> None:
            assert opened.wait(kit.PATIENCE_S)
            model.decoder.decode_into(data, camera, out)

    slow = Serving(replace(model, decoder=WhenOpened()))
    run = kit.pipeline(settings, kit.pipeline_components(settings, slow), burst=True)
    run.start()
    kit.wait_until(lambda: client.llen(keys.rq_queue("live")) == 17, "three are claimed")
    kit.wait_until(lambda: run._flow.encoded_bytes.wait_for_capacity(0.0) == 0, "they are counted")
    assert client.llen(keys.rq_queue("live")) == 17
    opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")
    assert run._flow.encoded_bytes.wait_for_capacity(0) == 3 * len(image) - 1
