"""Saves a Keras network as a module in TF-Hub's style. Called by the sources of backbones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_store.runtime.native_output import quiet_native
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.tensorflow_imports import import_tensorflow


def save_module(
    network: Any, target: Path, steps: ProgressSteps, *, size_px: int, from_unit: Callable[[Any], Any]
) -> None:
    """Save a Keras network as a TF-Hub module that takes 0 to 1; `from_unit` scales that to what the network takes.

    Only TF-Hub's four attributes are saved, traced with and without training: saving a whole Keras model traces every
    layer again and takes four times as long.
    """
    tf = import_tensorflow()

    @tf.function  # type: ignore[untyped-decorator] # TensorFlow has no types
    def outputs(images: Any, training: bool = False) -> Any:
        return network(from_unit(images), training=training)

    with steps.step("Saving the backbone"), quiet_native():
        images = tf.TensorSpec([None, size_px, size_px, 3], tf.float32, name="images")
        for training in (False, True):
            outputs.get_concrete_function(images, training=training)
        module = tf.train.Checkpoint()
        module.__call__ = outputs
        module.variables = network.variables
        module.trainable_variables = network.trainable_variables
        module.regularization_losses = []
        tf.saved_model.save(module, str(target))


def unit_to_signed_unit(images: Any) -> Any:
    """Scale 0..1 to -1..1, which the networks of keras.applications take."""
    return images * 2.0 - 1.0
