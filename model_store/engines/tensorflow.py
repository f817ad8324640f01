"""The GPU engine (it runs on CPUs too): the bundle's SavedModel in TensorFlow, in float32 or in mixed precision.

TensorFlow is imported when an engine is made, not before. This engine is written for GPUs, but has not been measured on
one yet. Tests on CPUs cover what a CPU can show: padding, XLA, the half-precision graph and its answers. GPU memory
grows as needed, so that a worker can share a card. TensorFloat-32 is off: its ten bits of mantissa would fail the
golden check.

Each call copies its pixels to the device, starts the model, and waits for the answer. A GPU has a separate queue for
copies, so a second call can copy its pixels while the previous batch is computed. That is why `max_concurrency` is 2 on
a GPU. TensorFlow doesn't give its users pinned host memory, so each copy goes through a buffer of TensorFlow's own.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model_store.engines import graph_rewriting
from model_store.engines.validation import check_answer, check_batch, describe_batch
from shared.arrays import Floats
from shared.errors import BadBundle, EngineFailed
from shared.images.arrays import Images

_SIGNATURE = "serving_default"
# One call whose batch is being computed, and one whose pixels are being copied.
_GPU_CONCURRENCY = 2


class TensorFlowEngine:
    """One SavedModel with uint8 images in and probabilities out. `predict` may be called by several threads.

    Batches are padded with black images to one of a few sizes (powers of two, and `max_batch`), because for every new
    shape a GPU has to choose its kernels again, and XLA has to compile.
    """

    def __init__(
        self,
        saved_model: Path,
        *,
        input_size_px: int,
        classes_count: int,
        threads: int,
        max_batch: int,
        files: Iterable[tuple[str, bytes]] | None = None,
        frozen: bool = False,
        mixed: bool = False,
        xla: bool = False,
    ) -> None:
        """Import TensorFlow and load the model; see `model_store.engines.loading.open_engine` for a checked one.

        Args:
            saved_model: the SavedModel's folder.
            input_size_px: S of the images.
            classes_count: C of the answers.
            threads: for CPU work; has an effect only if this process has not used TensorFlow yet.
            max_batch: the most images that run at once.
            files: path inside the folder and content of each file, if they have been read and checked already; then
                nothing is read from the folder, where they may be exchanged meanwhile.
            frozen: turn the weights into constants of the graph, so that TensorFlow folds batch normalization into
                them. On CPUs that saves a tenth of the time for 16 images and a third for 1; it shifts answers by about
                1e-5.
            mixed: freeze the weights, and run convolutions and matrix products in half precision, the rest in float32;
                see `graph_rewriting`.
            xla: compile the model for each batch size, which takes seconds at the first run of each. Only useful on
                GPUs: on CPUs XLA's convolutions are ten times slower than TensorFlow's own.

        Raises:
            BadBundle: the model can't be loaded, or doesn't have the expected serving signature.
        """
        self.name: Literal["tensorflow", "tensorflow-mixed"] = "tensorflow-mixed" if mixed else "tensorflow"
        self.input_size_px = input_size_px
        self.classes_count = classes_count
        self._sizes = padded_sizes(max_batch)
        self._tf = _import_for_serving(threads=threads)
        on_gpu = bool(self._tf.config.list_physical_devices("GPU"))
        self.max_concurrency = _GPU_CONCURRENCY if on_gpu else 1
        self._device = "/GPU:0" if on_gpu else "/CPU:0"
        with contextlib.nullcontext(str(saved_model)) if files is None else self._in_memory(files) as location:
            self._model, signature = self._load(saved_model, location=location)
        input_name = self._checked_input_name(signature, saved_model)
        if mixed:
            call = graph_rewriting.to_mixed_precision(signature)
        else:
            call = graph_rewriting.freeze(signature) if frozen else _unfrozen(signature, input_name)
        self._run = self._traced(call, xla=xla)

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run each padded size between those of the smallest and the largest of these batch sizes once."""
        size_px, largest = self.input_size_px, self._sizes[-1]
        lowest, highest = (self._padded(min(size, largest)) for size in (min(batch_sizes), max(batch_sizes)))
        for padded in self._sizes:
            if lowest <= padded <= highest:
                self.predict(np.zeros((padded, size_px, size_px, 3), np.uint8))

    def predict(self, batch: Images, *, on_ready_for_next: Callable[[], None] | None = None) -> Floats:
        """See `Engine.predict`. More images than `max_batch` run in slices, all started before any is waited for."""
        check_batch(batch, input_size_px=self.input_size_px, engine=self.name)
        largest = self._sizes[-1]
        slices = [batch[start : start + largest] for start in range(0, len(batch), largest)]
        try:
            # Start all slices before waiting for the first, so that a GPU goes from one to the next without a pause.
            started = [self._start(part) for part in slices]
            if on_ready_for_next is not None:
                on_ready_for_next()  # the next batch can be copied while these are computed
            answers = [self._finish(answer, len(part)) for answer, part in zip(started, slices, strict=True)]
        except (ValueError, TypeError, self._tf.errors.OpError) as error:
            raise EngineFailed(f"engine {self.name} failed on {describe_batch(batch)}: {error}") from error
        answer = answers[0] if len(answers) == 1 else np.concatenate(answers)
        return check_answer(answer, images=len(batch), classes_count=self.classes_count, engine=self.name)

    def _start(self, part: Images) -> Any:
        """Copy the images to the device and start the model; returns a tensor that will hold the answer."""
        padded = self._padded(len(part))
        if padded > len(part) or not isinstance(part, np.ndarray):
            filled = np.zeros((padded, *part[0].shape), np.uint8)
            for row, image in zip(filled, part, strict=False):  # the rows that remain are padding
                row[:] = image
            part = filled
        with self._tf.device(self._device):  # places the copy; TensorFlow itself places the model
            images = self._tf.constant(part)
        return self._run(images)

    def _finish(self, answer: Any, images: int) -> Floats:
        """Wait for the answer. Returns the rows of the `images` images, without those of the padding."""
        # Check the number of rows before the padding is cut off, or a wrong number would go unnoticed.
        rows: Floats = answer.numpy()
        checked = check_answer(rows, images=self._padded(images), classes_count=self.classes_count, engine=self.name)
        return checked[:images]

    def _padded(self, images: int) -> int:
        return next(size for size in self._sizes if size >= images)

    def _traced(self, call: Callable[[Any], Any], *, xla: bool) -> Callable[[Any], Any]:
        """Trace `call` as one function for any number of images; XLA compiles it again for each number."""
        spec = self._tf.TensorSpec([None, self.input_size_px, self.input_size_px, 3], self._tf.uint8)
        traced: Callable[[Any], Any] = self._tf.function(
            call, input_signature=[spec], autograph=False, jit_compile=True if xla else None
        )
        return traced

    @contextlib.contextmanager
    def _in_memory(self, files: Iterable[tuple[str, bytes]]) -> Iterator[str]:
        """A folder with these files in TensorFlow's file system in memory; deleted when the model is loaded."""
        gfile = self._tf.io.gfile
        folder = f"ram://sortline-{uuid.uuid4().hex}"
        try:
            for name, content in files:
                path = f"{folder}/{name}"
                gfile.makedirs(path.rpartition("/")[0])
                with gfile.GFile(path, "wb") as file:
                    file.write(content)
            yield folder
        finally:
            if gfile.exists(folder):
                gfile.rmtree(folder)

    def _load(self, saved_model: Path, *, location: str) -> tuple[Any, Any]:
        """The model, which must stay referenced (it owns the weights), and its serving signature."""
        try:
            model = self._tf.saved_model.load(location)
            return model, model.signatures[_SIGNATURE]
        except (OSError, KeyError, ValueError, self._tf.errors.OpError) as error:
            raise BadBundle(
                f"{saved_model} can't be loaded by TensorFlow: {error}. Publish the model again."
            ) from error

    def _checked_input_name(self, signature: Any, saved_model: Path) -> str:
        _, inputs = signature.structured_input_signature
        wanted = [None, self.input_size_px, self.input_size_px, 3]
        found = {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in inputs.items()}
        if list(found.values()) != [("uint8", wanted)] or len(signature.structured_outputs) != 1:
            inputs_text = ", ".join(f"{name} {dtype}{shape}" for name, (dtype, shape) in found.items())
            raise BadBundle(
                f"{saved_model} has the serving inputs {inputs_text} and {len(signature.structured_outputs)} outputs, "
                f"but should have one input uint8{wanted} and one output. Publish the model again."
            )
        return str(next(iter(found)))


def padded_sizes(max_batch: int) -> tuple[int, ...]:
    """The batch sizes that run: powers of two below `max_batch`, and `max_batch` itself."""
    powers = [1 << exponent for exponent in range(max_batch.bit_length())]
    return (*(size for size in powers if size < max_batch), max_batch)


def _unfrozen(signature: Any, input_name: str) -> Callable[[Any], Any]:
    def call(images: Any) -> Any:
        (answer,) = signature(**{input_name: images}).values()
        return answer

    return call


def _import_for_serving(*, threads: int) -> Any:
    """TensorFlow, configured for serving. Devices can only be configured before their first use."""
    # Keeps start-up notices out of the worker's log; has no effect after the import.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    try:
        # The number of inter-op threads stays at its default: the model is a chain of operators, no two of which can
        # run at once. With 1, 2 and the default number, images/s and CPU time on two cores were the same within the
        # noise.
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        # TensorFlow is running already (another engine, or training) and keeps its configuration.
        pass
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return tf
