"""The CPU engine: LiteRT with its XNNPACK kernels, int8 or fp32. Never imports TensorFlow.

A batch is not one tensor but so many single images, dealt out to as many interpreters (lanes) as there are threads,
each with one thread of its own; beyond MAX_LANES threads, lanes get more than one. Two callers may bring batches: while
the last image of one is in some lane, the others begin with the next. Against one interpreter with two threads and the
whole batch as one tensor (MobileNetV2 at 224 px, 16 images, two shared cores): 1.21 times the images/s in int8, 1.30
times in fp32, at 0.82 and 0.74 of the CPU time an image; 1.15 times while two threads decode JPEGs beside it. Reasons:

- an image's activations stay in a core's cache, those of sixteen don't;
- two threads in one operator wait for each other after each operator, and for long when one lost its core to a decoder;
- nothing is ever resized (0.5 to 2 ms each time the batch's size changes) or padded, and memory doesn't grow with the
  batch: some 10 MB an interpreter in int8, 25 MB in fp32, where sixteen images in one tensor took 72 and 133.

`Interpreter.invoke` releases Python's interpreter lock, so decoding and claiming go on while the model runs.
(Measured with ai-edge-litert 2.3 on two shared cores: a counting thread kept 86 % of its pace beside a model
in another thread, and 93 % beside an unrelated process; held, the lock would have left it a few percent.)
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from model_store.engines.validation import check_answer, check_batch, described
from shared.errors import BadBundle, EngineFailed
from shared.images.arrays import Images

# Most interpreters that share a batch: each holds the weights once more. Threads beyond that are dealt out to them.
MAX_LANES = 4


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
        """Load the model; see `model_store.engines.loading.open_engine` for a checked one.

        Raises:
            BadBundle: the file can't be loaded, or its input is not uint8 [N, S, S, 3].
        """
        self.name = name
        self.input_size_px = input_size_px
        self.classes_count = classes_count
        # While the last images of a batch are in some lanes, the others go on with the next batch.
        self.callers = 2
        lanes = min(threads, MAX_LANES)
        each, left = divmod(threads, lanes)
        shares = [each + 1] * left + [each] * (lanes - left)
        self._lanes = [_Lane(model_file, size_px=input_size_px, threads=share) for share in shares]
        # A lone image has nobody to share with: all threads work on it together (two: 0.6 to 0.7 of one's time).
        self._lone = _Lane(model_file, size_px=input_size_px, threads=threads) if lanes > 1 else None
        self._free = deque(self._lanes)
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="litert")
        self._inside = 0  # callers
        self._entering = threading.Lock()

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run one image on each interpreter that batches of these sizes use: no size needs more."""
        blank = np.zeros((1, self.input_size_px, self.input_size_px, 3), np.uint8)
        with self._failing_on(blank):
            if 1 in batch_sizes and self._lone is not None:
                self._lone.answer(blank[0])
            if max(batch_sizes) > 1 or self._lone is None:
                for lane in self._lanes:
                    lane.answer(blank[0])

    def predict(self, batch: Images, *, hungry: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """See `Engine.predict`."""
        check_batch(batch, input_size_px=self.input_size_px, engine=self.name)
        with self._failing_on(batch), self._entered() as is_alone:
            if is_alone and len(batch) == 1 and self._lone is not None:
                answer = self._lone.answer(batch[0])
            else:
                answer = np.concatenate(self._shared(batch, hungry))
        return check_answer(answer, images=len(batch), classes_count=self.classes_count, engine=self.name)

    @contextlib.contextmanager
    def _failing_on(self, batch: Images) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise EngineFailed(f"engine {self.name} failed on {described(batch)}: {error}") from error

    @contextlib.contextmanager
    def _entered(self) -> Iterator[bool]:
        """Gives whether there is no other caller."""
        with self._entering:
            self._inside += 1
            is_alone = self._inside == 1
        try:
            yield is_alone
        finally:
            with self._entering:
                self._inside -= 1

    def _shared(self, batch: Images, hungry: Callable[[], None] | None) -> list[NDArray[np.float32]]:
        """The rows of each image, in order. Each lane takes the next image as soon as it is done with one."""
        waiting = deque(range(len(batch)))
        answers: dict[int, NDArray[np.float32]] = {}

        def work() -> None:
            lane = self._free.popleft()  # there are as many as the pool has threads
            try:
                while waiting:
                    try:
                        index = waiting.popleft()
                    except IndexError:  # another lane was quicker
                        return
                    if hungry is not None and index == len(batch) - 1:
                        hungry()  # the lane that ends next has nothing to do
                    answers[index] = lane.answer(batch[index])
            finally:
                self._free.append(lane)

        working = [self._pool.submit(work) for _ in range(min(len(self._lanes), len(batch)))]
        # Whatever happens: they read the caller's pixels, which are filled anew once this is over.
        wait(working)
        for each in working:
            each.result()  # raises what it raised
        return [answers[index] for index in range(len(batch))]


class _Lane:
    """One interpreter, allocated for one image. Used by one thread at a time."""

    def __init__(self, model_file: Path, *, size_px: int, threads: int) -> None:
        try:
            self._interpreter = Interpreter(model_path=str(model_file), num_threads=threads)
            (image,), (answer,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            _check_input(image, model_file, size_px=size_px)
            self._input_index, self._output_index = image["index"], answer["index"]
            self._interpreter.resize_tensor_input(self._input_index, [1, size_px, size_px, 3])
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise BadBundle(f"{model_file} can't be loaded by LiteRT: {error}. Publish the model again.") from error
        # A scale of 0 is LiteRT's way to say that the output is not quantised.
        self._scale, self._zero_point = answer["quantization"]

    def answer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The rows, float32 [1, C] of a sound model, for one image [S, S, 3].

        `set_tensor` copies 10 microseconds' worth of pixels; writing through `tensor()` took the same.

        Raises:
            RuntimeError, ValueError: LiteRT's own.
        """
        self._interpreter.set_tensor(self._input_index, image[np.newaxis])
        self._interpreter.invoke()
        rows: NDArray[Any] = self._interpreter.get_tensor(self._output_index)
        if self._scale:
            rows = (rows.astype(np.float32) - self._zero_point) * np.float32(self._scale)
        return rows


def _check_input(image: dict[str, Any], model_file: Path, *, size_px: int) -> None:
    if image["dtype"] is not np.uint8 or list(image["shape"][1:]) != [size_px, size_px, 3]:
        raise BadBundle(
            f"{model_file} takes {np.dtype(image['dtype'])}{image['shape'].tolist()}, "
            f"should be uint8[N, {size_px}, {size_px}, 3]. Publish the model again."
        )
