"""The Keras graphs of EfficientNet-Lite, and how a PyTorch checkpoint's arrays fit them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model_store.backbones.efficientnet_lite import VARIANTS, build, weights_from_torch
from shared.arrays import Floats
from shared.errors import BadBackbone

pytestmark = pytest.mark.training

# Of the papers' networks; the classifier has 1,281,000 of lite0's 4,652,008 parameters, statistics left out.
PARAMETERS = {"lite0": 4_652_008, "lite1": 5_416_680, "lite2": 6_092_072}


@pytest.fixture(scope="module")
def graph() -> Any:
    return build("lite0", classes=1000)


@pytest.fixture
def arrays() -> dict[str, Floats]:
    """A checkpoint of lite0: PyTorch's names and shapes, and in each array a number of its own."""
    names = [("_conv_stem.weight", (32, 3, 3, 3)), *_batch_norm("_bn0", 32)]
    block, channels = 0, 32
    for blocks, kernel, filters in (
        (1, 3, 16),
        (2, 3, 24),
        (2, 5, 40),
        (3, 3, 80),
        (3, 5, 112),
        (4, 5, 192),
        (1, 3, 320),
    ):
        for _ in range(blocks):
            prefix, expanded = f"_blocks.{block}", channels * (6 if block else 1)
            if block:
                names += [(f"{prefix}._expand_conv.weight", (expanded, channels, 1, 1))]
                names += _batch_norm(f"{prefix}._bn0", expanded)
            names += [(f"{prefix}._depthwise_conv.weight", (expanded, 1, kernel, kernel))]
            names += _batch_norm(f"{prefix}._bn1", expanded)
            names += [(f"{prefix}._project_conv.weight", (filters, expanded, 1, 1))]
            names += _batch_norm(f"{prefix}._bn2", filters)
            block, channels = block + 1, filters
    names += [("_conv_head.weight", (1280, 320, 1, 1)), *_batch_norm("_bn1", 1280)]
    names += [("_fc.weight", (1000, 1280)), ("_fc.bias", (1000,))]
    return {name: np.full(shape, number, np.float32) for number, (name, shape) in enumerate(names)}


def _batch_norm(prefix: str, channels: int) -> list[tuple[str, tuple[int, ...]]]:
    arrays = ("weight", "bias", "running_mean", "running_var")
    return [(f"{prefix}.{name}", (channels,)) for name in arrays] + [(f"{prefix}.num_batches_tracked", ())]


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_has_the_size_that_was_published(variant: str) -> None:
    graph = build(variant, classes=1000)
    assert sum(int(np.prod(weight.shape)) for weight in graph.trainable_weights) == PARAMETERS[variant]
    assert graph(np.zeros((2, 64, 96, 3), np.float32)).shape == (2, 1000)
    assert build(variant)(np.zeros((2, 64, 96, 3), np.float32)).shape == (2, 2, 3, 1280)


def test_every_weight_gets_its_own_array(graph: Any, arrays: dict[str, Floats]) -> None:
    found = weights_from_torch(arrays, graph, origin="x.pth")
    assert [array.shape for array in found] == [tuple(weight.shape) for weight in graph.weights]
    used = [name for name in arrays if not name.endswith("num_batches_tracked")]
    assert sorted(array.flat[0] for array in found) == sorted(arrays[name].flat[0] for name in used)
    by_name = dict(zip([weight.name for weight in graph.weights], found, strict=True))
    for ours, theirs in (
        ("stage_6_block_2_depthwise/depthwise_kernel:0", "_blocks.12._depthwise_conv.weight"),
        ("stage_2_block_1_expand_bn/beta:0", "_blocks.1._bn0.bias"),
        ("stage_7_block_1_project_bn/moving_variance:0", "_blocks.15._bn2.running_var"),
        ("classifier/bias:0", "_fc.bias"),
    ):
        assert by_name[ours].flat[0] == arrays[theirs].flat[0]


def test_kernels_are_transposed(graph: Any, arrays: dict[str, Floats]) -> None:
    rng = np.random.default_rng(1)
    for name in ("_conv_stem.weight", "_blocks.3._depthwise_conv.weight", "_fc.weight"):
        arrays[name] = rng.random(arrays[name].shape).astype(np.float32)
    found = dict(zip([w.name for w in graph.weights], weights_from_torch(arrays, graph, origin="x.pth"), strict=True))
    assert found["stem/kernel:0"][2, 1, 0, 7] == arrays["_conv_stem.weight"][7, 0, 2, 1]
    depthwise = found["stage_3_block_1_depthwise/depthwise_kernel:0"]
    assert depthwise[4, 1, 9, 0] == arrays["_blocks.3._depthwise_conv.weight"][9, 0, 4, 1]
    assert found["classifier/kernel:0"][70, 5] == arrays["_fc.weight"][5, 70]


def test_a_checkpoint_without_its_classifier_is_enough_for_features(arrays: dict[str, Floats]) -> None:
    graph = build("lite0")
    assert len(weights_from_torch(arrays, graph, origin="x.pth")) == len(graph.weights)
    without = {name: array for name, array in arrays.items() if not name.startswith("_fc.")}
    assert len(weights_from_torch(without, graph, origin="x.pth")) == len(graph.weights)


def test_another_networks_checkpoint_is_refused(graph: Any, arrays: dict[str, Floats]) -> None:
    missing = {name: array for name, array in arrays.items() if name != "_blocks.4._bn1.bias"}
    with pytest.raises(BadBackbone, match=r"x\.pth has no array _blocks\.4\._bn1\.bias"):
        weights_from_torch(missing, graph, origin="x.pth")
    with pytest.raises(BadBackbone, match=r"x\.pth has an array _blocks\.0\._se_reduce\.weight"):
        weights_from_torch(arrays | {"_blocks.0._se_reduce.weight": np.zeros(3, np.float32)}, graph, origin="x.pth")
    with pytest.raises(BadBackbone, match=r"_conv_head\.weight has the shape"):
        weights_from_torch(
            arrays | {"_conv_head.weight": np.zeros((1280, 352, 1, 1), np.float32)}, graph, origin="x.pth"
        )
