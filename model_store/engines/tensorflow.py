"""The GPU engine (it runs on CPUs too): the bundle's SavedModel in TensorFlow.

TensorFlow is imported when an engine is made, not before. Written for GPUs, but measured on none yet:
memory grows as needed, so that a worker can share a card; TensorFloat-32 is off, because its ten bits of
mantissa would miss the golden answers; and the model runs in the float32 it was exported in. Half
precision ("mixed") would be another model file with golden answers of its own, not a switch here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_store.engines.checks import check_answer, check_batch
from shared.errors import BadBundle, EngineFailed

_SIGNATURE = "serving_default"


class TensorFlowEngine:
    """One SavedModel with uint8 images in and probabilities out.

    Runs at a few fixed batch sizes only (powers of two up to `max_batch`), filled up with black images:
    every new shape costs a GPU the choice of its kernels anew.
    """

    def __init__(
        self, saved_model: Path, *, input_size_px: int, classes_count: int, threads: int, max_batch: int
    ) -> None:
        """Import TensorFlow and load the model; see `model_store.engines.open_engine` for a checked one.

        `threads` is for CPU work, and holds only if this is the first TensorFlow of the process.

        Raises:
            BadBundle: the model can't be loaded, or its serving signature is another.
        """
        self.name: Literal["tensorflow"] = "tensorflow"
        self.input_size_px = input_size_px
        self.classes_count = classes_count
        self._sizes = padded_sizes(max_batch)
        self._tf = _tensorflow(threads=threads)
        try:
            self._model = self._tf.saved_model.load(str(saved_model))
            self._signature = self._model.signatures[_SIGNATURE]
        except (OSError, KeyError, ValueError, self._tf.errors.OpError) as error:
            raise BadBundle(
                f"{saved_model} can't be loaded by TensorFlow: {error}. Publish the model again."
            ) from error
        self._input_name = self._checked_input_name(saved_model)

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run every size from the smallest to the largest of these once, padded as they will be."""
        size_px, largest = self.input_size_px, self._sizes[-1]
        lowest, highest = (self._padded(min(size, largest)) for size in (min(batch_sizes), max(batch_sizes)))
        for padded in self._sizes:
            if lowest <= padded <= highest:
                self.predict(np.zeros((padded, size_px, size_px, 3), np.uint8))

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.predict`. More images than `max_batch` are run in several pieces."""
        check_batch(batch, input_size_px=self.input_size_px, engine=self.name)
        largest = self._sizes[-1]
        try:
            pieces = [self._run(batch[start : start + largest]) for start in range(0, len(batch), largest)]
        except (ValueError, TypeError, self._tf.errors.OpError) as error:
            raise EngineFailed(f"engine {self.name} failed on uint8{list(batch.shape)}: {error}") from error
        answer = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return check_answer(answer, images=len(batch), classes_count=self.classes_count, engine=self.name)

    def _run(self, piece: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = len(piece)
        padded = self._padded(images)
        if padded > images:
            filled = np.zeros((padded, *piece.shape[1:]), np.uint8)
            filled[:images] = piece
            piece = filled
        outputs = self._signature(**{self._input_name: self._tf.constant(piece)})
        (answer,) = outputs.values()
        # Of a wrong number of rows none may be cut off in silence.
        checked = check_answer(answer.numpy(), images=padded, classes_count=self.classes_count, engine=self.name)
        return checked[:images]

    def _padded(self, images: int) -> int:
        return next(size for size in self._sizes if size >= images)

    def _checked_input_name(self, saved_model: Path) -> str:
        _, inputs = self._signature.structured_input_signature
        wanted = [None, self.input_size_px, self.input_size_px, 3]
        found = {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in inputs.items()}
        if list(found.values()) != [("uint8", wanted)] or len(self._signature.structured_outputs) != 1:
            raise BadBundle(
                f"{saved_model} has the serving inputs {found} and {len(self._signature.structured_outputs)} outputs, "
                f"should be one of uint8{wanted} and one. Publish the model again."
            )
        return str(next(iter(found)))


def padded_sizes(max_batch: int) -> tuple[int, ...]:
    """The batch sizes that are run: powers of two below `max_batch`, and `max_batch` itself."""
    powers = [1 << exponent for exponent in range(max_batch.bit_length())]
    return (*(size for size in powers if size < max_batch), max_batch)


def _tensorflow(*, threads: int) -> Any:
    """TensorFlow, set up for serving. Devices can only be set up before their first use."""
    # Its start-up notices are not for whoever reads a worker's log; set before the import or not at all.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        # TensorFlow is running already (a second engine, or training before it) and keeps its setup.
        pass
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return tf
