"""The CPU engine: LiteRT with its XNNPACK kernels, int8 or fp32. Never imports TensorFlow.

`Interpreter.invoke` releases Python's interpreter lock, so decoding and claiming go on while the model runs.
(Measured with ai-edge-litert 2.3 on two shared cores: a counting thread kept 86 % of its pace beside a model
in another thread, and 93 % beside an unrelated process; held, the lock would have left it a few percent.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from model_store.engines.checks import check_answer, check_batch
from shared.errors import BadBundle, EngineFailed


class LiteRTEngine:
    """One `.tflite` file with uint8 images in and probabilities (float32, or quantised) out."""

    def __init__(
        self,
        model_file: Path,
        *,
        name: Literal["litert", "litert-fp32"],
        input_size_px: int,
        classes_count: int,
        threads: int,
    ) -> None:
        """Load the model; see `model_store.engines.open_engine` for a checked one.

        Raises:
            BadBundle: the file can't be loaded, or its input is not uint8 [N, S, S, 3].
        """
        self.name = name
        self.input_size_px = input_size_px
        self.classes_count = classes_count
        try:
            self._interpreter = Interpreter(model_path=str(model_file), num_threads=threads)
            (image,), (answer,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise BadBundle(f"{model_file} can't be loaded by LiteRT: {error}. Publish the model again.") from error
        if image["dtype"] is not np.uint8 or list(image["shape"][1:]) != [input_size_px, input_size_px, 3]:
            raise BadBundle(
                f"{model_file} takes {np.dtype(image['dtype'])}{image['shape'].tolist()}, "
                f"should be uint8[N, {input_size_px}, {input_size_px}, 3]. Publish the model again."
            )
        self._input_index = image["index"]
        self._output_index = answer["index"]
        # A scale of 0 is LiteRT's way to say that the output is not quantised.
        self._scale, self._zero_point = answer["quantization"]
        self._batch_size = 0  # what the tensors are allocated for; 0: nothing yet

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Allocate for and run each size once, the last one last: it stays allocated."""
        size_px = self.input_size_px
        for batch_size in batch_sizes:
            self.predict(np.zeros((batch_size, size_px, size_px, 3), np.uint8))

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.predict`."""
        check_batch(batch, input_size_px=self.input_size_px, engine=self.name)
        try:
            if len(batch) != self._batch_size:
                self._resize(batch.shape)
            self._interpreter.set_tensor(self._input_index, batch)
            self._interpreter.invoke()
            answer = self._interpreter.get_tensor(self._output_index)
        except (ValueError, RuntimeError) as error:
            self._batch_size = 0  # how far it came is unknown: allocate anew next time
            raise EngineFailed(f"engine {self.name} failed on uint8{list(batch.shape)}: {error}") from error
        if self._scale:
            answer = (answer.astype(np.float32) - self._zero_point) * np.float32(self._scale)
        return check_answer(answer, images=len(batch), classes_count=self.classes_count, engine=self.name)

    def _resize(self, shape: tuple[int, ...]) -> None:
        """Costs some 2 ms with MobileNetV2, as much as one image, hence only when the size changes."""
        self._interpreter.resize_tensor_input(self._input_index, shape)
        self._interpreter.allocate_tensors()
        self._batch_size = shape[0]
