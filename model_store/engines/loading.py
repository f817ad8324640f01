"""Chooses and loads the engine that runs a bundle.

In: an opened bundle. Out: an Engine that has just given the bundle's golden answers. Called by workers,
`classify`, `evaluate` and `models verify`. Imports no TensorFlow unless that engine is asked for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path
from typing import Literal

from model_store.bundle.files import Bundle
from model_store.bundle.manifest import FP32_FILE, INT8_FILE, SAVED_MODEL_DIR
from model_store.engines.golden_check import replay_golden
from model_store.engines.protocol import Engine, EngineKind, EngineName
from model_store.engines.throttled import Unhurried
from model_store.runtime.native_output import quiet_native
from shared.cpu_cores import usable_cores
from shared.errors import NotFound

_NVIDIA_DEVICE = Path("/dev/nvidia0")


def open_engine(
    bundle: Bundle, kind: EngineKind, *, threads: int, max_batch: int, beside: bool = False, xla: bool = False
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
    with contextlib.nullcontext() if beside else quiet_native():
        engine = _load(bundle, name, threads=threads or usable_cores(), max_batch=max_batch, xla=xla)
        replay_golden(bundle, Unhurried(engine) if beside else engine)
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
