"""The TensorFlow engine: fixed sizes, concurrent calls, XLA, mixed precision; as far as a CPU can show."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from model_store.bundle.files import open_bundle
from model_store.bundle.manifest import SAVED_MODEL_DIR
from model_store.engines.golden_check import MIXED_TOLERANCE
from model_store.engines.loading import open_engine
from model_store.engines.tensorflow import TensorFlowEngine, padded_sizes
from tests.model_store.tiny_bundle import random_images

pytestmark = pytest.mark.training


def tf() -> Any:
    """TensorFlow, imported only when the first test runs."""
    import tensorflow

    return tensorflow


def tensorflow(bundle: Path, **options: Any) -> TensorFlowEngine:
    arguments = {"input_size_px": 32, "classes_count": 3, "threads": 1, "max_batch": 4} | options
    return TensorFlowEngine(bundle / SAVED_MODEL_DIR, **arguments)


class Watched:
    """A tf.function of an engine that notes the start of each call in `order`, and the batch's size in `sizes`."""

    def __init__(self, function: Any, order: list[str]) -> None:
        self.function = function
        self.sizes: list[int] = []
        self._order = order

    def __call__(self, images: Any) -> Any:
        self._order.append("start")
        self.sizes.append(len(images))
        return Answer(self.function(images), self._order)

    def nodes(self) -> list[Any]:
        """All nodes of the graph and of the functions in it."""
        graph = self.function.get_concrete_function().graph.as_graph_def()
        return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]

    def operations(self) -> set[str]:
        """The kinds of operations in the graph."""
        return {node.op for node in self.nodes()}

    def precisions(self) -> dict[str, set[str]]:
        """The types in which each kind of operation computes."""
        found: dict[str, set[str]] = {}
        for node in self.nodes():
            if "T" in node.attr:
                found.setdefault(node.op, set()).add(tf().as_dtype(node.attr["T"].type).name)
        return found


class Answer:
    """The result of a call; it notes in `order` when the engine waits for it."""

    def __init__(self, tensor: Any, order: list[str]) -> None:
        self._tensor, self._order = tensor, order

    def numpy(self) -> Any:
        self._order.append("wait")
        return self._tensor.numpy()


class Watch(list[Watched]):
    """The tf.functions of a test's engines, in the order in which the engines were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made, function = Watch(), tf().function

    def trace(call: Any, **options: Any) -> Watched:
        made.append(Watched(function(call, **options), made.order))
        return made[-1]

    monkeypatch.setattr(tf(), "function", trace)
    return made


def test_tensorflow_pads_to_a_few_sizes(tiny_bundle: Path, watch: Watch) -> None:
    engine = tensorflow(tiny_bundle, max_batch=6)
    ran = watch[0].sizes
    for asked, sizes in (([1, 6], [1, 2, 4, 6]), ([3], [4]), ([2, 100], [2, 4, 6])):
        engine.warm_up(asked)
        assert ran == sizes
        ran.clear()
    assert engine.predict(random_images(15)).shape == (15, 3)
    assert ran == [6, 6, 4]


def is_compiled(watched: Watched) -> bool:
    """Whether XLA compiles the function: then TensorFlow can show the compiler's code, otherwise it raises."""
    try:
        return "HloModule" in watched.function.experimental_get_compiler_ir(random_images(2))(stage="hlo")
    except ValueError as error:
        assert "jit_compile" in str(error)
        return False


def test_tensorflow_traces_once_and_xla_compiles_the_function(tiny_bundle: Path, watch: Watch) -> None:
    images = random_images(4)
    engines = tensorflow(tiny_bundle), tensorflow(tiny_bundle, frozen=True, xla=True)
    for engine, watched in zip(engines, watch, strict=True):
        engine.warm_up([1, 4])
        assert watched.function.experimental_get_tracing_count() == 1
    assert [is_compiled(watched) for watched in watch] == [False, True]
    plain, compiled = (engine.predict(images) for engine in engines)
    np.testing.assert_allclose(compiled, plain, atol=1e-5)


def test_a_frozen_graph_gives_the_same_answers(tiny_bundle: Path, watch: Watch) -> None:
    images = random_images(4)
    saved, frozen = tensorflow(tiny_bundle), tensorflow(tiny_bundle, frozen=True)
    assert ["ReadVariableOp" in watched.operations() for watched in watch] == [True, False]
    np.testing.assert_allclose(frozen.predict(images), saved.predict(images), atol=1e-5)


@pytest.mark.parametrize("xla", [False, True])
def test_mixed_precision_computes_convolutions_in_float16_with_close_answers(
    tiny_bundle: Path, watch: Watch, *, xla: bool
) -> None:
    images = random_images(40, seed=3)
    mixed = tensorflow(tiny_bundle, mixed=True, xla=xla)
    assert is_compiled(watch[0]) is xla
    precisions = watch[0].precisions()
    assert precisions["Conv2D"] == precisions["MatMul"] == {"float16"}
    assert precisions["Mean"] == {"float32"}
    exact = tensorflow(tiny_bundle).predict(images)
    answers = mixed.predict(images)
    # Rounding to 11 bits of mantissa changes the answers a little, which shows that the rewritten graph ran.
    assert 1e-5 < np.abs(answers - exact).max() < MIXED_TOLERANCE / 4


def test_a_mixed_engine_does_not_change_a_float32_engine_in_the_same_process(tiny_bundle: Path, watch: Watch) -> None:
    images = random_images(8)
    before = tensorflow(tiny_bundle).predict(images)
    mixed = tensorflow(tiny_bundle, mixed=True)
    mixed.predict(images)
    after = tensorflow(tiny_bundle)
    np.testing.assert_array_equal(after.predict(images), before)
    assert watch[-1].precisions()["Conv2D"] == {"float32"}


@pytest.mark.parametrize("mixed", [False, True])
def test_concurrent_calls_get_their_own_answers(tiny_bundle: Path, *, mixed: bool) -> None:
    engine = tensorflow(tiny_bundle, mixed=mixed)
    batches = [random_images(1 + seed % 4, seed=seed) for seed in range(24)]
    alone = [engine.predict(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(engine.predict, batches))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_images_are_taken_from_scattered_memory(tiny_bundle: Path) -> None:
    engine, images = tensorflow(tiny_bundle), random_images(5)
    np.testing.assert_array_equal(engine.predict([image.copy() for image in images]), engine.predict(images))


def test_all_slices_are_started_before_the_first_is_waited_for(tiny_bundle: Path, watch: Watch) -> None:
    engine = tensorflow(tiny_bundle)
    images = random_images(9)
    expected = engine.predict(images)
    watch.order.clear()
    answer = engine.predict(images, on_ready_for_next=lambda: watch.order.append("ready for next"))
    np.testing.assert_array_equal(answer, expected)
    assert watch.order == ["start"] * 3 + ["ready for next"] + ["wait"] * 3


def test_a_gpu_takes_two_calls_at_once(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    assert tensorflow(tiny_bundle).max_concurrency == 1
    listed = tf.config.list_physical_devices
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"] if kind == "GPU" else listed(kind))
    # TensorFlow is already initialized, and raises if this is set now.
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", lambda threads: None)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grown := Mock())
    assert tensorflow(tiny_bundle).max_concurrency == 2
    grown.assert_called_with("a GPU", True)


def test_the_xla_setting_reaches_tensorflow(tiny_bundle: Path, watch: Watch) -> None:
    for xla in (False, True):
        open_engine(open_bundle(tiny_bundle), "tensorflow", threads=1, max_batch=2, xla=xla)
        assert is_compiled(watch[-1]) is xla


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16))])
def test_padded_sizes(max_batch: int, sizes: tuple[int, ...]) -> None:
    assert padded_sizes(max_batch) == sizes
