"""Inspection: runs a SavedModel to find out what it takes and gives. The one place that checks third-party modules.

In: a folder that should hold a TF2 TF-Hub image module. Out: a ModuleInfo, or an error that says what the folder holds
instead. `save_rescaled` converts a module with another scaling into one that takes 0..1, so that code that uses a
cached module need not know about scalings.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model_store.backbones.handles import (
    DEFAULT_SCALING,
    SCALINGS,
    HandleOptions,
    Scaling,
    default_size_px,
    published_spec,
)
from model_store.backbones.unpacking import SAVED_MODEL_FILE
from model_store.runtime.native_output import quiet_native
from model_store.runtime.tensorflow_imports import import_hub, import_tensorflow
from shared.arrays import Floats
from shared.errors import BadBackbone

OutputKind = Literal["features", "logits", "probabilities"]

# The first file identifies the TF1 Hub format, the second a whole Keras network, saved with or without its scaling.
_TF1_HUB_FILE = "tfhub_module.pb"
_KERAS_FILE = "keras_metadata.pb"
_TEST_IMAGES = 8
# The spread is the share of the features' length that differs between images. On the default backbone it is 0.27 with
# the right scaling, 0.21 to 0.30 with another of the three, but 0.01 for input that is 255 times too small. So input
# that is far too small can be detected, but a confusion of -1..1 with 0..1 can't. That is why the user has to state the
# scaling of a Keras network.
_LITTLE_SPREAD = 0.05
_FAR_MORE = 4.0
_NO_SPREAD = 1e-6
_IMAGENET_OUTPUTS = (1000, 1001)
# A float32 softmax over a thousand classes adds up to 1 within a few 1e-6.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ModuleInfo:
    """What a module takes and gives. `test_outputs` are its outputs for the test images, [8, outputs].

    `trainable`: it has variables to train, and can be called with training=True.
    """

    input_size_px: int
    scaling: Scaling
    trainable: bool
    test_outputs: Floats

    @property
    def outputs(self) -> int:
        """Numbers per image."""
        return int(self.test_outputs.shape[1])


def inspect_module(saved_model: Path, *, handle: str, options: HandleOptions) -> ModuleInfo:
    """Load the module, run it on test images, and compare it with what its published name states.

    Raises:
        BadBackbone: the folder doesn't hold a TF2 TF-Hub image module, or not the one that the handle names; the
            message says what it holds.
    """
    scaling = _stated_scaling(saved_model, handle, options)
    module = _loaded(saved_model, handle)
    size_px = _input_size_px(module, handle, options)
    outputs = _run(module, handle, size_px=size_px, scaling=scaling)
    _check_published_spec(handle, size_px=size_px, outputs=outputs.shape[1], is_size_chosen=options.size_px is not None)
    _check_spread(module, handle, outputs, size_px=size_px, scaling=scaling)
    return ModuleInfo(size_px, scaling, _is_trainable(module, size_px=size_px, scaling=scaling), outputs)


def check_features(info: ModuleInfo, handle: str) -> None:
    """Refuse a ready-made classifier.

    Raises:
        BadBackbone: its outputs are ImageNet's classes.
    """
    if info.outputs in _IMAGENET_OUTPUTS:
        raise BadBackbone(
            f"{handle} gives {info.outputs:,} numbers per image, one for each of ImageNet's classes: it is a "
            "ready-made classifier. Take the feature vector of the same network, or use the classifier as it is: "
            "`sortline models import-classifier`."
        )


def score_kind(info: ModuleInfo, handle: str) -> OutputKind:
    """Whether a classifier gives logits or probabilities, by its outputs for the test images.

    Raises:
        BadBackbone: neither: the scores are independent, from 0 to 1, so that no single class follows from them.
    """
    outputs = info.test_outputs
    if outputs.min() < 0 or outputs.max() > 1 + _SUM_TOLERANCE:
        return "logits"
    if np.abs(outputs.sum(axis=1) - 1).max() <= _SUM_TOLERANCE:
        return "probabilities"
    raise BadBackbone(
        f"classifier {handle} gives scores from 0 to 1 that add up to {outputs.sum(axis=1).min():.3g} to "
        f"{outputs.sum(axis=1).max():.3g} per image, but should give logits, or probabilities that add up to 1."
    )


def save_rescaled(saved_model: Path, target: Path, *, info: ModuleInfo) -> None:
    """Save the module, which takes `info.scaling`, as one that takes 0..1; it stays trainable if it was."""
    tf = import_tensorflow()
    inner = tf.saved_model.load(str(saved_model))
    layer = import_hub().KerasLayer(inner, trainable=info.trainable)
    size_px = info.input_size_px

    @tf.function  # type: ignore[untyped-decorator] # TensorFlow has no types
    def call(images: Any, training: bool = False) -> Any:
        return layer(_scaled(images, info.scaling), training=training)

    with quiet_native():
        images = tf.TensorSpec([None, size_px, size_px, 3], tf.float32, name="images")
        for training in (False, True):
            call.get_concrete_function(images, training=training)
        module = tf.train.Checkpoint(inner=inner)
        module.__call__ = call
        module.variables = list(getattr(inner, "variables", ()))
        module.trainable_variables = list(getattr(inner, "trainable_variables", ()))
        module.regularization_losses = list(getattr(inner, "regularization_losses", ()))
        tf.saved_model.save(module, str(target))


def _stated_scaling(saved_model: Path, handle: str, options: HandleOptions) -> Scaling:
    if (saved_model / _TF1_HUB_FILE).is_file():
        raise BadBackbone(
            f"{handle} is in TF1's Hub format ({_TF1_HUB_FILE}), which can't be trained further: take its TF2 version "
            "(/4 or later of the same name on TF-Hub)."
        )
    if not (saved_model / SAVED_MODEL_FILE).is_file():
        raise BadBackbone(f"{handle} has no {SAVED_MODEL_FILE}: give a TF2 SavedModel.")
    if options.scaling is None and (saved_model / _KERAS_FILE).is_file():
        raise BadBackbone(
            f"{handle} was saved by Keras ({_KERAS_FILE}), whose networks take values from -1 to 1, 0 to 255 or 0 to 1 "
            f"and don't state which: state it yourself, e.g. {handle}#scaling=-1..1 (for MobileNetV2 and InceptionV3 "
            "of keras.applications without their preprocess_input)."
        )
    return options.scaling or DEFAULT_SCALING


def _loaded(saved_model: Path, handle: str) -> Any:
    tf = import_tensorflow()
    try:
        with quiet_native():
            module = tf.saved_model.load(str(saved_model))
    except Exception as error:  # whatever a damaged graph or checkpoint makes TensorFlow raise
        raise BadBackbone(f"{handle} can't be loaded as a SavedModel: {_first_line(error)}. Fetch it again.") from error
    if not callable(module) or not getattr(module.__call__, "concrete_functions", ()):
        signatures = ", ".join(getattr(module, "signatures", {})) or "none"
        raise BadBackbone(
            f"{handle} can only be served (signatures: {signatures}): it is a TF1 SavedModel, or was exported for "
            "serving. Training needs a TF2 TF-Hub module: a SavedModel whose object can be called with images. From "
            "Keras, save the model itself: `model.save(folder)` of tf-keras."
        )
    return module


def _input_size_px(module: Any, handle: str, options: HandleOptions) -> int:
    """The size to run the module at: what it declares, else the user's, else its published name's, else a default."""
    declared = _declared_size_px(module, handle)
    if declared is None:
        spec = published_spec(handle)
        return options.size_px or (spec.size_px if spec else default_size_px(handle))
    if options.size_px not in (None, declared):
        raise BadBackbone(
            f"{handle}: the module takes images of {declared} px only, not {options.size_px}: leave out #size."
        )
    return declared


def _declared_size_px(module: Any, handle: str) -> int | None:
    tf = import_tensorflow()
    function = module.__call__.concrete_functions[0]
    specs = [spec for spec in tf.nest.flatten(function.structured_input_signature) if isinstance(spec, tf.TensorSpec)]
    if not specs:
        raise BadBackbone(f"{handle} takes no tensor: it is not an image module.")
    dtype, shape = specs[0].dtype.name, specs[0].shape
    taken = f"{dtype}{[None] if shape.rank is None else shape.as_list()}"
    if dtype != "float32" or shape.rank not in (None, 4) or (shape.rank == 4 and shape[3] not in (None, 3)):
        raise BadBackbone(
            f"{handle} takes {taken}, but should take float32[N, S, S, 3]: it is not a TF-Hub image module."
        )
    if shape.rank is None:
        return None
    images, height, width, _ = shape.as_list()
    if images is not None:
        raise BadBackbone(
            f"{handle} takes {taken}: batches of {images} only. Export it with a variable first dimension, "
            "e.g. tf.TensorSpec([None, S, S, 3])."
        )
    if height != width:
        raise BadBackbone(f"{handle} takes images of {width} x {height} px, but they should be square.")
    return None if height is None else int(height)


def _run(module: Any, handle: str, *, size_px: int, scaling: Scaling) -> Floats:
    tf = import_tensorflow()
    try:
        with quiet_native():
            layer = import_hub().KerasLayer(module, trainable=False)
            outputs = layer(_scaled(tf.constant(_test_images(size_px)), scaling))
    except (OSError, ValueError, TypeError, RuntimeError, AttributeError, tf.errors.OpError) as error:
        raise BadBackbone(
            f"{handle} does not take images [{_TEST_IMAGES}, {size_px}, {size_px}, 3] as a TF2 TF-Hub feature "
            f"vector does: {_first_line(error)}"
        ) from error
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != _TEST_IMAGES:
        given = f"{shape}" if shape is not None else f"a {type(outputs).__name__}"
        raise BadBackbone(
            f"{handle} gives {given} for {_TEST_IMAGES} images, but should give one row of numbers for each: "
            "take a feature vector."
        )
    if outputs.dtype != tf.float32:
        raise BadBackbone(f"{handle} gives {outputs.dtype.name}, not float32: export it in full precision.")
    found = np.asarray(outputs.numpy())
    if not np.isfinite(found).all():
        raise BadBackbone(
            f"{handle}, fed {scaling}, gives numbers that are not finite. Its weights are damaged, or it takes "
            f"another scaling: {_other_scalings(scaling)}."
        )
    return found


def _is_trainable(module: Any, *, size_px: int, scaling: Scaling) -> bool:
    tf = import_tensorflow()
    if not getattr(module, "trainable_variables", ()):
        return False
    try:  # this changes the module's batch normalization statistics, but the loaded module is not saved again
        with quiet_native():
            layer = import_hub().KerasLayer(module, trainable=True)
            layer(_scaled(tf.constant(_test_images(size_px)), scaling), training=True)
    except (ValueError, TypeError, tf.errors.OpError):  # raised by hub for a module that was not saved for training
        return False
    return True


def _check_published_spec(handle: str, *, size_px: int, outputs: int, is_size_chosen: bool) -> None:
    spec = published_spec(handle)
    if spec is None:
        return
    advice = "The address serves a different module than its name says: check it, or give the module another name."
    if size_px != spec.size_px and not is_size_chosen:
        raise BadBackbone(f"{handle}: {spec.name} should take {spec.size_px} px, but takes {size_px}. {advice}")
    if outputs != spec.outputs:
        raise BadBackbone(
            f"{handle}: {spec.name} should give {spec.outputs:,} numbers per image, but gives {outputs:,}. {advice}"
        )


def _check_spread(module: Any, handle: str, outputs: Floats, *, size_px: int, scaling: Scaling) -> None:
    spread = _spread(outputs)
    if spread >= _LITTLE_SPREAD:
        return
    others = {other: 0.0 for other in SCALINGS if other != scaling}
    for other in others:
        with contextlib.suppress(BadBackbone):  # e.g. the outputs are not finite
            others[other] = _spread(_run(module, handle, size_px=size_px, scaling=other))
    best = max(others, key=others.__getitem__)
    if others[best] > max(_FAR_MORE * spread, _LITTLE_SPREAD):
        raise BadBackbone(
            f"{handle}, fed {scaling}, hardly tells pictures apart: its features differ by {spread:.1%} between "
            f"pictures, but by {others[best]:.1%} when fed {best}. State what it takes, e.g. #scaling={best}."
        )
    if spread < _NO_SPREAD:
        raise BadBackbone(f"{handle} gives the same features for every picture: its weights are damaged.")


def _spread(outputs: Floats) -> float:
    length = float(np.linalg.norm(outputs))
    return float(np.linalg.norm(outputs - outputs.mean(axis=0))) / length if length else 0.0


def _test_images(size_px: int) -> Floats:
    """Eight images of soft colored patches with some noise, float32 [8, S, S, 3] from 0 to 1; always the same."""
    tf = import_tensorflow()
    rng = np.random.default_rng(0)
    patches = tf.image.resize(rng.random((_TEST_IMAGES, 4, 4, 3)).astype(np.float32), (size_px, size_px)).numpy()
    return np.asarray(np.clip(patches + rng.normal(0, 0.05, patches.shape), 0, 1), np.float32)


def _scaled(images: Any, scaling: Scaling) -> Any:
    """Convert images from 0..1 to the range that a network with this scaling takes."""
    if scaling == "-1..1":
        return images * 2.0 - 1.0
    return images * 255.0 if scaling == "0..255" else images


def _other_scalings(scaling: Scaling) -> str:
    return " or ".join(f"#scaling={other}" for other in SCALINGS if other != scaling)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
