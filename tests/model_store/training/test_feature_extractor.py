"""Feature extractors: which features belong to which weights, and at what size frames are decoded."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone
from model_store.runtime.tensorflow_imports import import_hub
from model_store.training.crop_geometry import FULL_FRAME_SIZE, crop_frames, full_frame_transforms
from model_store.training.feature_extractor import frame_size_px, graph_extractor
from tests.model_store.tiny_network import SIZE_PX

pytestmark = pytest.mark.training


def test_the_digest_depends_on_the_weights(tiny_network: Network) -> None:
    pretrained = graph_extractor(tiny_network, localizer=None).digest
    assert graph_extractor(tiny_network.clone(), localizer=None).digest == pretrained
    blank, other = (graph_extractor(tiny_network.clone(pretrained=False), localizer=None).digest for _ in range(2))
    assert len({pretrained, blank, other}) == 3, "the features of one would be taken for those of another"
    tuned = tiny_network.clone()
    weights = tuned.graph.get_layer("Conv1").trainable_variables[0]
    weights.assign(weights + 1e-3)
    assert graph_extractor(tuned, localizer=None).digest != pretrained


def test_a_network_that_stays_as_it_is_gives_its_modules_output(
    tiny_network: Network, network_backbone: Backbone
) -> None:
    pixels = np.random.default_rng(6).uniform(0, 255, (2, SIZE_PX, SIZE_PX, 3)).astype(np.float32)
    frozen, tuned = (graph_extractor(tiny_network, localizer=None, frozen=frozen) for frozen in (True, False))
    ours = np.asarray(frozen.feature_fn(pixels, training=False))
    np.testing.assert_allclose(ours, import_hub().KerasLayer(str(network_backbone.path))(pixels / 255), atol=1e-4)
    inner = tiny_network.up_to(tiny_network.architecture.feature_layer).output
    assert (frozen.feature_width, tuned.feature_width) == (ours.shape[1], inner.shape[-1])
    assert frozen.digest != tuned.digest, "the cached features of one layer would be taken for those of another"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(640, 480)] * 3, 320),
        ([(100, 80)], 224),
        ([(250, 200)], 256),
        ([(200, 250)], 256),
        ([(300, 300), (256, 256), (4000, 3000)], 288),
    ],
)
def test_frames_are_decoded_at_their_usual_size_within_bounds(sizes: list[tuple[int, int]], expected: int) -> None:
    assert frame_size_px(sizes) == expected


def test_full_frames_are_resized_as_a_crop_of_the_whole_frame_would_be(tiny_network: Network) -> None:
    frames = np.random.default_rng(2).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    cropped = crop_frames(frames, full_frame_transforms(2), FULL_FRAME_SIZE)
    resized = graph_extractor(tiny_network, localizer=None).pixels(frames)
    assert np.abs(np.asarray(resized) - np.asarray(cropped)).max() < 0.01
