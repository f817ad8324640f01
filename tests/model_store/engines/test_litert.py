"""The LiteRT engine: how it distributes a batch over interpreters, and its state after a failure."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from model_store.bundle.manifest import INT8_FILE
from model_store.engines.litert import LiteRTEngine
from shared.errors import EngineFailed
from tests.model_store.tiny_bundle import lite_converter, random_images, tiny_module


@dataclass
class Invocations:
    """Records which interpreters ran, in order, and makes the next runs fail."""

    of: list[int]
    fail_next: int = 0


@pytest.fixture
def invocations(monkeypatch: pytest.MonkeyPatch) -> Invocations:
    seen = Invocations([])
    invoke = Interpreter.invoke
    recording = threading.Lock()

    def recorded(self: Interpreter) -> None:
        with recording:
            seen.of.append(id(self))
            seen.fail_next -= 1
            fails = seen.fail_next >= 0
        if fails:
            raise RuntimeError("Node number 3 failed to invoke")
        invoke(self)

    monkeypatch.setattr(Interpreter, "invoke", recorded)
    return seen


def litert(bundle: Path, *, threads: int) -> LiteRTEngine:
    file = bundle / INT8_FILE
    return LiteRTEngine(
        file.read_bytes(), name="litert", input_size_px=32, classes_count=3, threads=threads, location=file
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("failures", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 4])
def test_litert_recovers_from_a_failed_run(
    tiny_bundle: Path, invocations: Invocations, *, threads: int, failures: int, count: int
) -> None:
    engine = litert(tiny_bundle, threads=threads)
    images = random_images(6)
    before = engine.predict(images)
    invocations.fail_next = failures
    with pytest.raises(EngineFailed, match=rf"litert failed on uint8\[{count}, 32, 32, 3\]: Node number 3"):
        engine.predict(random_images(count))
    invocations.fail_next = 0
    np.testing.assert_array_equal(engine.predict(images), before)


def test_litert_returns_only_when_no_interpreter_reads_the_batch_any_more(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller reuses its buffer once `predict` has returned or raised."""
    engine = litert(tiny_bundle, threads=2)
    invoke, both_in = Interpreter.invoke, threading.Barrier(2, timeout=60)
    ended: list[str] = []

    def invoked(self: Interpreter) -> None:
        if both_in.wait() == 0:
            raise RuntimeError("broken")
        time.sleep(0.1)
        invoke(self)
        ended.append("neighbor")

    monkeypatch.setattr(Interpreter, "invoke", invoked)
    with pytest.raises(EngineFailed, match="broken"):
        engine.predict(random_images(2))
    assert ended == ["neighbor"]


def test_litert_goes_on_with_the_next_batch_while_one_image_is_slow(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one caller's last image is in one interpreter, the other must work on the next caller's batch."""
    engine = litert(tiny_bundle, threads=2)
    invoke, second_done = Interpreter.invoke, threading.Event()
    being_first, held = threading.Lock(), threading.Event()

    def invoked(self: Interpreter) -> None:
        if being_first.acquire(blocking=False):  # never released, so only the first call waits
            held.set()
            assert second_done.wait(60)
        invoke(self)

    images = random_images(8)
    expected = engine.predict(images)
    monkeypatch.setattr(Interpreter, "invoke", invoked)
    with ThreadPoolExecutor(1) as callers:
        first = callers.submit(engine.predict, images[:4])
        assert held.wait(60)
        np.testing.assert_array_equal(engine.predict(images[4:]), expected[4:])
        second_done.set()
        np.testing.assert_array_equal(first.result(), expected[:4])


def test_litert_runs_a_lone_image_on_one_interpreter_while_a_batch_runs(
    tiny_bundle: Path, invocations: Invocations
) -> None:
    """All threads on that image would take cores away from the batch."""
    engine = litert(tiny_bundle, threads=2)
    engine.predict(random_images(1))
    (lone,) = invocations.of
    beside: list[Any] = []
    engine.predict(random_images(4), on_ready_for_next=lambda: beside.append(engine.predict(random_images(1))))
    assert len(beside) == 1
    assert invocations.of.count(lone) == 1
    assert len(invocations.of) == 6


@pytest.mark.parametrize(("threads", "count"), [(1, 4), (2, 2), (2, 9)])
def test_litert_is_ready_for_the_next_batch_when_its_last_image_begins(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, *, threads: int, count: int
) -> None:
    engine = litert(tiny_bundle, threads=threads)
    invoke, events, recording = Interpreter.invoke, list[str](), threading.Lock()

    def invoked(self: Interpreter) -> None:
        with recording:
            events.append("image")
        invoke(self)

    monkeypatch.setattr(Interpreter, "invoke", invoked)
    engine.predict(random_images(count), on_ready_for_next=lambda: events.append("ready for next"))
    assert (events.count("image"), events.count("ready for next")) == (count, 1)
    begun = events.index("ready for next")  # one may have taken an image, but not started yet
    assert count - threads <= begun <= count - 1


def test_litert_takes_images_from_scattered_memory(tiny_bundle: Path) -> None:
    engine, images = litert(tiny_bundle, threads=2), random_images(5)
    scattered = [image.copy() for image in images]
    np.testing.assert_array_equal(engine.predict(scattered), engine.predict(images))
    with pytest.raises(EngineFailed, match=r"was given uint8\[2, 32, 32, 3\] and uint8\[2, 8, 8, 3\], but takes"):
        engine.predict([images[0], np.zeros((8, 8, 3), np.uint8)])


def test_litert_spreads_a_batch_over_interpreters_and_puts_all_threads_on_a_lone_image(
    tiny_bundle: Path, invocations: Invocations
) -> None:
    engine = litert(tiny_bundle, threads=2)
    engine.warm_up([1])
    (lone,) = invocations.of
    invocations.of.clear()
    engine.warm_up([4, 16])
    interpreters = set(invocations.of)
    assert len(invocations.of) == len(interpreters) == 2
    assert lone not in interpreters
    invocations.of.clear()
    engine.predict(random_images(9))
    assert len(invocations.of) == 9
    assert set(invocations.of) <= interpreters
    invocations.of.clear()
    engine.predict(random_images(1))
    assert invocations.of == [lone]


def test_litert_interpreters_work_at_the_same_time(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = litert(tiny_bundle, threads=3)
    invoke, all_in = Interpreter.invoke, threading.Barrier(3, timeout=60)
    monkeypatch.setattr(Interpreter, "invoke", lambda self: (all_in.wait(), invoke(self))[1])
    engine.predict(random_images(3))


@pytest.mark.parametrize(
    ("threads", "interpreters"),
    [
        (1, [1]),
        (3, [1, 1, 1]),
        (4, [1, 1, 1, 1]),
        (5, [2, 1, 1, 1]),
        (6, [2, 2, 1, 1]),
        (7, [2, 2, 2, 1]),
        (9, [3, 2, 2, 2]),
        (11, [3, 3, 3, 2]),
    ],
)
def test_litert_distributes_all_its_threads_over_the_interpreters(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, *, threads: int, interpreters: list[int]
) -> None:
    made: list[int] = []
    create = Interpreter.__init__

    def counted(self: Interpreter, *, num_threads: int, **options: Any) -> None:
        made.append(num_threads)
        create(self, num_threads=num_threads, **options)

    monkeypatch.setattr(Interpreter, "__init__", counted)
    litert(tiny_bundle, threads=threads)
    assert made == interpreters + ([threads] if len(interpreters) > 1 else [])


def test_litert_allocates_once(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = litert(tiny_bundle, threads=2)

    def allocate(self: Interpreter) -> None:
        raise AssertionError("allocated again")

    monkeypatch.setattr(Interpreter, "allocate_tensors", allocate)
    for count in (1, 16, 3, 1):
        assert len(engine.predict(random_images(count))) == count


def test_a_litert_engine_that_is_replaced_leaves_no_threads(tiny_bundle: Path) -> None:
    before = set(threading.enumerate())
    engine = litert(tiny_bundle, threads=3)
    engine.predict(random_images(8))
    helpers = set(threading.enumerate()) - before
    assert helpers
    del engine
    gc.collect()
    for thread in helpers:
        thread.join(60)
    assert not any(thread.is_alive() for thread in helpers)


@pytest.mark.training
def test_litert_dequantizes_a_quantized_output(tiny_bundle: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    converter = lite_converter(tf, tiny_module(tf, mode="multi", size_px=32), int8_from=random_images(32, seed=1))
    converter.inference_output_type = tf.uint8
    (tmp_path / INT8_FILE).write_bytes(converter.convert())
    images = random_images(20)
    answers = [litert(folder, threads=1).predict(images) for folder in (tmp_path, tiny_bundle)]
    np.testing.assert_allclose(answers[0], answers[1], atol=1 / 256)
