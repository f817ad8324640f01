"""The CPU engine: LiteRT with its XNNPACK kernels, int8 or fp32. Never imports TensorFlow.

A batch does not run as one tensor. Its images are distributed one by one over several interpreters, one per
thread; beyond MAX_INTERPRETERS threads, each gets more than one. Two threads may call `predict` at once: while one
interpreter runs the last image of one batch, the others start with the next batch. Compared with one interpreter of two
threads that runs the whole batch as one tensor (MobileNetV2 at 224 px, 16 images, two shared cores), this gives 1.21
times the images/s in int8 and 1.30 times in fp32, at 0.82 and 0.74 of the CPU time per image. While two other threads
decode JPEGs it gives 1.15 times the images/s. Reasons:

- the activations of one image stay in a core's cache, those of sixteen don't;
- two threads of one interpreter wait for each other after each operator, and wait long when a decoder thread has taken
  the core of one of them;
- no tensor is ever padded or resized (resizing takes 0.5 to 2 ms each time the size of the batch changes), and memory
  doesn't grow with the batch: it takes about 10 MB per interpreter in int8 and 25 MB in fp32, where sixteen images in
  one tensor took 72 and 133 MB.

`Interpreter.invoke` releases Python's interpreter lock, so decoding and claiming go on while the model runs.
(Measured with ai-edge-litert 2.3 on two shared cores: a counting thread kept 86 % of its speed while a model ran in
another thread, and 93 % while an unrelated process ran. If the lock were held, a few percent would be left.)

With an `Fp32Recheck`, an fp32 interpreter answers an image again, in the same thread, if int8's answer is close
(`engines.recheck`). For EfficientNet-Lite0 and two threads, an engine takes 63 MB in place of 39.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from model_store.engines.recheck import RecheckRule
from model_store.engines.validation import check_answer, check_batch, describe_batch
from shared.arrays import Floats
from shared.errors import BadBundle, EngineFailed
from shared.images.arrays import Images, Pixels

# An engine has at most this many interpreters, because each holds a copy of the weights. If there are more threads,
# they are distributed over these interpreters.
MAX_INTERPRETERS = 4


@dataclass(frozen=True)
class Fp32Recheck:
    """What rechecks an int8 model: the content of its bundle's fp32 model, of the file `location`, and the rule."""

    content: bytes
    location: Path
    rule: RecheckRule


class LiteRTEngine:
    """One `.tflite` file with uint8 images in and probabilities (float32, or quantized) out.

    With `recheck`, a second file answers the images for which the first one's answer is close.
    """

    def __init__(
        self,
        content: bytes,
        *,
        name: Literal["litert", "litert-fp32"],
        input_size_px: int,
        classes_count: int,
        threads: int,
        location: Path,
        recheck: Fp32Recheck | None = None,
    ) -> None:
        """Load the model; see `model_store.engines.loading.open_engine` for a checked one.

        Args:
            content: of a model's file.
            name: of the engine.
            input_size_px: S of the images.
            classes_count: C of the answers.
            threads: of the engine.
            location: the file, which messages name.
            recheck: the model that answers close images again; None: the first answer always counts.

        Raises:
            BadBundle: a model can't be loaded, or its input is not uint8 [N, S, S, 3].
        """
        self.name = name
        self.input_size_px = input_size_px
        self.classes_count = classes_count
        # While some interpreters run the last images of a batch, the others start with the next batch.
        self.max_concurrency = 2
        shares = _shares(threads)
        self._rechecks = _Rechecks(recheck, size_px=input_size_px, shares=shares) if recheck is not None else None

        def interpreter(threads: int) -> _Interpreter:
            first = _ImageInterpreter(content, location, size_px=input_size_px, threads=threads)
            return first if self._rechecks is None else _RecheckedInterpreter(first, self._rechecks, classes_count)

        self._interpreters = [interpreter(share) for share in shares]
        # A single image can't be distributed, so one interpreter runs it on all threads (two threads take 0.6 to 0.7 of
        # the time of one).
        self._for_single_images = interpreter(threads) if len(self._interpreters) > 1 else None
        self._idle = deque(self._interpreters)
        self._pool = ThreadPoolExecutor(len(self._interpreters), thread_name_prefix="litert")
        self._active_calls = 0
        self._calls_lock = threading.Lock()

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run one image on each interpreter that batches of these sizes use. Every tensor holds just one image."""
        blank = np.zeros((1, self.input_size_px, self.input_size_px, 3), np.uint8)
        with self._translating_errors(blank):
            if self._rechecks is not None:
                self._rechecks.warm_up(blank[0])
            if 1 in batch_sizes and self._for_single_images is not None:
                self._for_single_images.answer(blank[0])
            if max(batch_sizes) > 1 or self._for_single_images is None:
                for interpreter in self._interpreters:
                    interpreter.answer(blank[0])

    def predict(self, batch: Images, *, on_ready_for_next: Callable[[], None] | None = None) -> Floats:
        """See `Engine.predict`."""
        check_batch(batch, input_size_px=self.input_size_px, engine=self.name)
        with self._translating_errors(batch), self._counted_call() as is_only_call:
            if is_only_call and len(batch) == 1 and self._for_single_images is not None:
                answer = self._for_single_images.answer(batch[0])
            else:
                answer = np.concatenate(self._predict_image_by_image(batch, on_ready_for_next))
        return check_answer(answer, images=len(batch), classes_count=self.classes_count, engine=self.name)

    @contextlib.contextmanager
    def _translating_errors(self, batch: Images) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError) as error:
            raise EngineFailed(f"engine {self.name} failed on {describe_batch(batch)}: {error}") from error

    @contextlib.contextmanager
    def _counted_call(self) -> Iterator[bool]:
        """Count this call of `predict` while it runs. Yields whether no other call was running when it began."""
        with self._calls_lock:
            self._active_calls += 1
            is_only_call = self._active_calls == 1
        try:
            yield is_only_call
        finally:
            with self._calls_lock:
                self._active_calls -= 1

    def _predict_image_by_image(self, batch: Images, on_ready_for_next: Callable[[], None] | None) -> list[Floats]:
        """The rows of all images, in order. Each interpreter takes the next image as soon as it has finished one."""
        pending = deque(range(len(batch)))
        answers: dict[int, Floats] = {}

        def work() -> None:
            interpreter = self._idle.popleft()  # never empty: there are as many as threads in the pool
            try:
                while pending:
                    try:
                        index = pending.popleft()
                    except IndexError:  # another interpreter took the last one
                        return
                    if on_ready_for_next is not None and index == len(batch) - 1:
                        on_ready_for_next()  # the next interpreter to finish will find no image left
                    answers[index] = interpreter.answer(batch[index])
            finally:
                self._idle.append(interpreter)

        futures = [self._pool.submit(work) for _ in range(min(len(self._interpreters), len(batch)))]
        # Wait for all of them, also after an error: they read the caller's pixels, which the caller will overwrite.
        wait(futures)
        for future in futures:
            future.result()  # raises the interpreter's error
        return [answers[index] for index in range(len(batch))]


def _shares(threads: int) -> list[int]:
    """The threads of each interpreter."""
    count = min(threads, MAX_INTERPRETERS)
    each, extra = divmod(threads, count)
    return [each + 1] * extra + [each] * (count - extra)


class _Interpreter(Protocol):
    """Answers one image at a time. Used by one thread at a time."""

    def answer(self, image: Pixels) -> Floats:
        """The answer for one image [S, S, 3]: float32 [1, C]; the caller checks the shape."""


class _ImageInterpreter:
    """One interpreter, with tensors for one image. Used by one thread at a time.

    The model is loaded from memory. LiteRT would map a file instead: whoever then overwrote the file would change the
    model of a running worker, and whoever cut it short would end the worker with SIGBUS.
    """

    def __init__(self, content: bytes, location: Path, *, size_px: int, threads: int) -> None:
        """`content` is that of the file `location`, which messages name. It is not copied."""
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            (image,), (answer,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            _check_input(image, location, size_px=size_px)
            self._input_index, self._output_index = image["index"], answer["index"]
            self._interpreter.resize_tensor_input(self._input_index, [1, size_px, size_px, 3])
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise BadBundle(f"{location} can't be loaded by LiteRT: {error}. Publish the model again.") from error
        # LiteRT gives a scale of 0 when the output is not quantized.
        self._scale, self._zero_point = answer["quantization"]

    def answer(self, image: Pixels) -> Floats:
        """See `_Interpreter.answer`.

        `set_tensor` copies the pixels in 10 microseconds; writing them through `tensor()` took as long.

        Raises:
            RuntimeError, ValueError: LiteRT failed.
        """
        self._interpreter.set_tensor(self._input_index, image[np.newaxis])
        self._interpreter.invoke()
        rows: NDArray[Any] = self._interpreter.get_tensor(self._output_index)
        if self._scale:
            rows = (rows.astype(np.float32) - self._zero_point) * np.float32(self._scale)
        return rows


class _Rechecks:
    """The interpreters that answer close images again, and when they do.

    Few images are close, and an fp32 interpreter takes more memory than an int8 one. So there is one of them for every
    two of the engine's interpreters, which share it: whichever needs it waits until it is free.
    """

    def __init__(self, recheck: Fp32Recheck, *, size_px: int, shares: Sequence[int]) -> None:
        """`shares` are the threads of each of the engine's interpreters."""
        self.rule = recheck.rule
        self._idle: SimpleQueue[_ImageInterpreter] = SimpleQueue()
        self._interpreters = [
            _ImageInterpreter(recheck.content, recheck.location, size_px=size_px, threads=share)
            for share in shares[::2]
        ]
        for interpreter in self._interpreters:
            self._idle.put(interpreter)

    def warm_up(self, image: Pixels) -> None:
        """Run one image on each interpreter. Nothing else uses them yet."""
        for interpreter in self._interpreters:
            interpreter.answer(image)

    def answer(self, image: Pixels) -> Floats:
        """See `_Interpreter.answer`. Any thread may call it."""
        interpreter = self._idle.get()
        try:
            return interpreter.answer(image)
        finally:
            self._idle.put(interpreter)


class _RecheckedInterpreter:
    """An interpreter whose close answers `rechecks` replace."""

    def __init__(self, first: _ImageInterpreter, rechecks: _Rechecks, classes_count: int) -> None:
        self._first, self._rechecks = first, rechecks
        self._expected_shape = (1, classes_count)

    def answer(self, image: Pixels) -> Floats:
        """See `_Interpreter.answer`."""
        rows = self._first.answer(image)
        # The caller refuses an answer of another shape; the rule can't read it.
        if rows.shape == self._expected_shape and self._rechecks.rule.applies_to(rows[0]):
            return self._rechecks.answer(image)
        return rows


def _check_input(image: dict[str, Any], location: Path, *, size_px: int) -> None:
    if image["dtype"] is not np.uint8 or list(image["shape"][1:]) != [size_px, size_px, 3]:
        raise BadBundle(
            f"{location} takes {np.dtype(image['dtype'])}{image['shape'].tolist()}, "
            f"but should take uint8[N, {size_px}, {size_px}, 3]. Publish the model again."
        )
