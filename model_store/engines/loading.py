"""Chooses and loads the engine that runs a bundle.

In: an opened bundle. Out: an Engine that has just passed the golden check. Called by workers, `classify`, `evaluate`
and `models verify`. Imports TensorFlow only when that engine is asked for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from model_store.bundle.files import Bundle, read_checked
from model_store.bundle.manifest import FP32_FILE, INT8_FILE, SAVED_MODEL_DIR
from model_store.engines.golden_check import replay_golden
from model_store.engines.protocol import Engine, EngineKind, EngineName
from model_store.engines.recheck import RecheckRule
from model_store.engines.throttled import ThrottledEngine
from model_store.runtime.native_output import quiet_native
from shared.cpu_cores import usable_cores
from shared.errors import NotFound

_NVIDIA_DEVICE = Path("/dev/nvidia0")


def open_engine(
    bundle: Bundle, kind: EngineKind, *, threads: int, max_batch: int, background: bool = False, xla: bool = False
) -> Engine:
    """An engine for `bundle` that has just passed the golden check.

    Args:
        bundle: from `open_bundle`.
        kind: `auto` takes TensorFlow where there is a GPU and TensorFlow is installed, otherwise the engine that the
            manifest recommends for CPUs.
        threads: threads of the engine; 0: one per core that this process may use.
        max_batch: the largest batch to prepare for; larger ones are still answered, in slices or slower.
        background: whether another model of this process is serving. If so, the golden images run slowly, and what
            native libraries print is not hidden, because hiding it would also hide what the worker prints.
        xla: compile TensorFlow's model; the other engines ignore it.

    Raises:
        BadBundle: a model file can't be loaded, or its answers differ from the golden ones.
        NotFound: TensorFlow was asked for but is not installed.
        EngineFailed: the model could not be run at all.
    """
    name = resolve_engine_name(kind, cpu_engine=bundle.manifest.cpu_engine)
    # XNNPACK and CUDA print a notice to standard error when they are first loaded.
    with contextlib.nullcontext() if background else quiet_native():
        engine = _load(bundle, name, threads=threads or usable_cores(), max_batch=max_batch, xla=xla)
        replay_golden(bundle, ThrottledEngine(engine) if background else engine)
    return engine


def resolve_engine_name(kind: EngineKind, *, cpu_engine: Literal["litert", "litert-fp32"]) -> EngineName:
    """The engine that `kind` stands for on this machine."""
    if kind != "auto":
        return kind
    return "tensorflow" if gpu_visible() and tensorflow_installed() else cpu_engine


def gpu_visible() -> bool:
    """Whether this process can see an NVIDIA device; doesn't import TensorFlow."""
    return _NVIDIA_DEVICE.exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() not in ("", "-1")


def tensorflow_installed() -> bool:
    """Whether TensorFlow can be imported; doesn't import it."""
    return importlib.util.find_spec("tensorflow") is not None


def runnable_engines() -> tuple[EngineName, ...]:
    """The engines that it makes sense to run on this machine."""
    if not tensorflow_installed():
        return ("litert", "litert-fp32")
    # CPUs compute half precision in software, some ten times slower than float32.
    mixed: tuple[EngineName, ...] = ("tensorflow-mixed",) if gpu_visible() else ()
    return ("litert", "litert-fp32", "tensorflow", *mixed)


def saved_model_files(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Path inside the SavedModel and content of each of its files, checked when it is read."""
    for name in bundle.manifest.files:
        if name.startswith(f"{SAVED_MODEL_DIR}/"):
            yield name.removeprefix(f"{SAVED_MODEL_DIR}/"), read_checked(bundle, name)


def _load(bundle: Bundle, name: EngineName, *, threads: int, max_batch: int, xla: bool) -> Engine:
    size_px, classes_count = bundle.manifest.input_size_px, len(bundle.manifest.classes)
    if name == "tensorflow" or name == "tensorflow-mixed":
        if not tensorflow_installed():
            raise NotFound(f"engine {name}: TensorFlow is not installed: pip install 'sortline[gpu]'.")
        from model_store.engines.tensorflow import TensorFlowEngine

        return TensorFlowEngine(
            bundle.path / SAVED_MODEL_DIR,
            files=saved_model_files(bundle),
            input_size_px=size_px,
            classes_count=classes_count,
            threads=threads,
            max_batch=max_batch,
            frozen=True,
            mixed=name == "tensorflow-mixed",
            xla=xla,
        )
    return _load_litert(bundle, name, threads=threads)


def _load_litert(bundle: Bundle, name: Literal["litert", "litert-fp32"], *, threads: int) -> Engine:
    from model_store.engines.litert import Fp32Recheck, LiteRTEngine

    manifest = bundle.manifest
    file = INT8_FILE if name == "litert" else FP32_FILE
    recheck = None
    if name == "litert" and manifest.int8_recheck_margin:
        rule = RecheckRule(
            manifest.classes, mode=manifest.mode, policy=manifest.policy, margin=manifest.int8_recheck_margin
        )
        recheck = Fp32Recheck(read_checked(bundle, FP32_FILE), bundle.path / FP32_FILE, rule)
    return LiteRTEngine(
        read_checked(bundle, file),
        name=name,
        input_size_px=manifest.input_size_px,
        classes_count=len(manifest.classes),
        threads=threads,
        location=bundle.path / file,
        recheck=recheck,
    )
