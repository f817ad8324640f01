"""What runs a bundle: one small protocol, and the choice of who implements it.

In: an opened bundle. Out: an Engine that has just given the bundle's golden answers. Called by workers,
`classify`, `evaluate` and `models verify`. Imports no TensorFlow unless that engine is asked for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from model_store.bundle.files import Bundle, replay_golden
from model_store.bundle.manifest import FP32_FILE, INT8_FILE, SAVED_MODEL_DIR
from model_store.engines.throttled import Unhurried
from model_store.engines.validation import Images
from model_store.runtime.native_output import quiet_native
from shared.cgroups import cpu_limit
from shared.errors import NotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EngineName = Literal["litert", "litert-fp32", "tensorflow", "tensorflow-mixed"]
EngineKind = Literal["auto", "litert", "litert-fp32", "tensorflow", "tensorflow-mixed"]

_NVIDIA_DEVICE = Path("/dev/nvidia0")


class Engine(Protocol):
    """A model ready to run. No more than `callers` threads may use it at a time."""

    @property
    def name(self) -> EngineName:
        """As results and metrics show it."""

    @property
    def input_size_px(self) -> int:
        """S of the images' shape [N, S, S, 3]."""

    @property
    def classes_count(self) -> int:
        """C of the answers' shape [N, C]."""

    @property
    def callers(self) -> int:
        """How many threads may be in `predict` at once, and should be, to keep what it runs on busy."""

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run at least once at each of these sizes, so that the first real batch costs what later ones do."""

    def predict(self, batch: Images, *, on_ready_for_next: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """Probabilities, float32 [N, C], of N >= 1 C-contiguous uint8 RGB images [S, S, 3], in one array or in many.

        `on_ready_for_next` is called when the engine could begin the batch of another caller before this one's end. Not
        sooner, so that the items of the next batch are chosen as late as possible.

        Releases the interpreter lock while the model runs. The answer is the caller's to keep.

        Raises:
            EngineFailed: the model raised, or its answer is not N rows of C finite numbers.
        """


def open_engine(
    bundle: Bundle, kind: EngineKind, *, threads: int, max_batch: int, background: bool = False, xla: bool = False
) -> Engine:
    """An engine for `bundle` that has just given its golden answers.

    Args:
        bundle: from `open_bundle`.
        kind: `auto` takes TensorFlow where there is a GPU and TensorFlow to use it, else what the
            manifest recommends for CPUs.
        threads: of the engine; 0 takes one per core that this process may use.
        max_batch: most images in one batch; larger ones are still answered, in pieces or slower.
        beside: a model at work in this process: prove the bundle without hurry, and don't keep from the user what
            native libraries say, as what the worker says meanwhile would be lost with it.
        xla: compile TensorFlow's model; nothing to the other engines.

    Raises:
        BadBundle: a model file can't be loaded, or its answers are not the golden ones.
        NotFound: TensorFlow was asked for and is not installed.
        EngineFailed: the model could not be run at all.
    """
    name = choose(kind, cpu_engine=bundle.manifest.cpu_engine)
    # XNNPACK and CUDA announce themselves on standard error, once.
    with contextlib.nullcontext() if background else quiet_native():
        engine = _load(bundle, name, threads=threads or usable_cores(), max_batch=max_batch, xla=xla)
        replay_golden(bundle, Unhurried(engine) if background else engine)
    return engine


def choose(kind: EngineKind, *, cpu_engine: Literal["litert", "litert-fp32"]) -> EngineName:
    """What `kind` means on this machine."""
    if kind != "auto":
        return kind
    return "tensorflow" if gpu_visible() and tensorflow_installed() else cpu_engine


def gpu_visible() -> bool:
    """Whether an NVIDIA device is here and not hidden from this process; costs no import of TensorFlow."""
    return _NVIDIA_DEVICE.exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() not in ("", "-1")


def tensorflow_installed() -> bool:
    """Whether the TensorFlow engine could be loaded; doesn't import it."""
    return importlib.util.find_spec("tensorflow") is not None


def runnable_engines() -> tuple[EngineName, ...]:
    """The engines that are of use on this machine."""
    if not tensorflow_installed():
        return ("litert", "litert-fp32")
    # CPUs compute half precision in software, some ten times slower than float32.
    mixed: tuple[EngineName, ...] = ("tensorflow-mixed",) if gpu_visible() else ()
    return ("litert", "litert-fp32", "tensorflow", *mixed)


def usable_cores() -> int:
    """Cores that this process may use: what taskset or a container's CPU limit leaves it, not what the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, cpu_limit() or cores)


def _load(bundle: Bundle, name: EngineName, *, threads: int, max_batch: int, xla: bool) -> Engine:
    size_px, classes_count = bundle.manifest.input_size_px, len(bundle.manifest.classes)
    if name == "tensorflow" or name == "tensorflow-mixed":
        if not tensorflow_installed():
            raise NotFound(f"engine {name}: TensorFlow is not installed: pip install 'sortline[gpu]'.")
        from model_store.engines.tensorflow import TensorFlowEngine

        return TensorFlowEngine(
            bundle.path / SAVED_MODEL_DIR,
            input_size_px=size_px,
            classes_count=classes_count,
            threads=threads,
            max_batch=max_batch,
            frozen=True,
            mixed=name == "tensorflow-mixed",
            xla=xla,
        )
    from model_store.engines.litert import LiteRTEngine

    return LiteRTEngine(
        bundle.path / (INT8_FILE if name == "litert" else FP32_FILE),
        name=name,
        input_size_px=size_px,
        classes_count=classes_count,
        threads=threads,
    )
