"""The SavedModel of a network whose layers are known: loaded from disk it answers like the trained module."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_store.backbones.keras_graphs import Network
from model_store.engines.golden_check import FLOAT_TOLERANCE, MIXED_TOLERANCE
from model_store.engines.tensorflow import TensorFlowEngine
from model_store.export.exporter import serving_module
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.calibration import Calibration
from model_store.training.crop_geometry import CropSize
from model_store.training.feature_extractor import Crop, graph_extractor
from model_store.training.head import Head
from model_store.training.object_localizer import ObjectLocalizer
from shared.progress import ignore
from tests.model_store.tiny_network import SIZE_PX, colored_frames

pytestmark = pytest.mark.training


@pytest.mark.parametrize("crop", ["full", "detected"])
def test_a_saved_model_answers_like_the_module(tiny_network: Network, crop: Crop, tmp_path: Path) -> None:
    tf, frames = import_tensorflow(), colored_frames(12, seed=1, size_px=SIZE_PX).images
    localizer = ObjectLocalizer.fit(tiny_network, frames, on_progress=ignore) if crop == "detected" else None
    extractor = replace(graph_extractor(tiny_network, localizer=localizer), crop_size=CropSize(96, 64))
    kernel = np.random.default_rng(2).normal(0, 0.1, (extractor.feature_width, 2)).astype(np.float32)
    head = Head("multi", ("good", "no cap", "pigmented"), kernel, np.zeros(2, np.float32))
    module = serving_module(extractor, head, Calibration(scale=(1.0, 1.0), shift=(0.0, 0.0)), size_px=SIZE_PX)
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    loaded = tf.saved_model.load(str(tmp_path))
    (answers,) = loaded.signatures["serving_default"](images=tf.constant(frames)).values()
    np.testing.assert_allclose(answers, module.serve(tf.constant(frames))["probabilities"], atol=1e-5)
    assert np.ptp(np.asarray(answers), axis=0).min() > 0.01, "the frames are told apart"
    for mixed, tolerance in ((False, FLOAT_TOLERANCE), (True, MIXED_TOLERANCE)):
        engine = TensorFlowEngine(
            tmp_path, input_size_px=SIZE_PX, classes_count=3, threads=1, max_batch=16, frozen=True, mixed=mixed
        )
        np.testing.assert_allclose(engine.predict(frames), answers, atol=tolerance)
    # A Keras graph in it would be traced once more, layer by layer, into hundreds of functions, which take seconds to
    # save, and to load.
    functions = set(re.findall(rb"__inference_\w+", (tmp_path / "saved_model.pb").read_bytes()))
    assert 0 < len(functions) < 20
