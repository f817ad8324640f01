"""Whether the exported files answer as the trained model did, measured on images it never saw.

In: the trained module and a folder of exports. Out: a Parity and the golden answers. The files are loaded
from disk by the engines that serve them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import FLOAT_TOLERANCE, INT8_TOLERANCE, Golden
from model_store.engines import Engine, usable_cores
from model_store.engines.litert import LiteRTEngine
from model_store.engines.tensorflow import TensorFlowEngine
from model_store.evaluation import decided_labels
from model_store.manifest import FP32_FILE, INT8_FILE, SAVED_MODEL_DIR
from model_store.native import quiet_native
from model_store.policy import DEFAULT_THRESHOLD, GOOD, Mode, Policy
from shared.errors import BadBundle

# Below this share of images with the same class as the float model's, int8 is not what CPUs take by default.
# Label sets are reported beside it: they differ where a probability is near its threshold.
INT8_AGREEMENT = 0.99
# What reload may change. The SavedModel is the same graph and must hold it. LiteRT folds the batch norms into the
# weights, which rounds anew: up to 9.7e-6 on the default backbone; beyond this it is announced, not refused.
RELOAD_TOLERANCE = 1e-5
GOLDEN_IMAGES = 16
_BATCH_SIZE = 16

Floats = NDArray[np.float32]


class Answers(NamedTuple):
    """Probabilities of the same images, each float32 [N, C]."""

    trained: Floats
    saved_model: Floats
    fp32: Floats
    int8: Floats


def answer_all(module: Any, folder: Path, images: NDArray[np.uint8], *, classes_count: int) -> Answers:
    """Ask the trained module and each exported file."""
    size_px, cores = images.shape[1], usable_cores()

    def litert(file: str, name: Literal["litert", "litert-fp32"]) -> Engine:
        path = folder / file
        return LiteRTEngine(path, name=name, input_size_px=size_px, classes_count=classes_count, threads=cores)

    with quiet_native():
        saved_model: Engine = TensorFlowEngine(
            folder / SAVED_MODEL_DIR,
            input_size_px=size_px,
            classes_count=classes_count,
            threads=cores,
            max_batch=_BATCH_SIZE,
        )
        engines = saved_model, litert(FP32_FILE, "litert-fp32"), litert(INT8_FILE, "litert")
        exported = [_in_batches(engine.predict, images) for engine in engines]
        trained = _in_batches(lambda batch: np.asarray(module.serve(batch)["probabilities"]), images)
    return Answers(trained, *exported)


def _in_batches(predict: Any, images: NDArray[np.uint8]) -> Floats:
    starts = range(0, len(images), _BATCH_SIZE)
    return np.concatenate([predict(np.ascontiguousarray(images[start : start + _BATCH_SIZE])) for start in starts])


def measure(answers: Answers, *, classes: tuple[str, ...], mode: Mode, policy: Policy) -> dict[str, float]:
    """The figures of `manifest.parity`.

    `…_max_difference` is the largest difference of any probability to the trained model's.
    `int8_class_agreement` is the share of images where int8 comes to the same most probable class as the
    trained model, `int8_labels_agreement` where the policy decides on the same set of labels.

    Raises:
        BadBundle: a float export answers otherwise than the model that was trained; it must not be published.
    """
    figures: dict[str, float] = {"images": len(answers.trained)}
    for name in ("saved_model", "fp32", "int8"):
        figures[f"{name}_max_difference"] = float(np.abs(getattr(answers, name) - answers.trained).max())
    for name, allowed in (("saved_model", RELOAD_TOLERANCE), ("fp32", FLOAT_TOLERANCE)):
        if not (difference := figures[f"{name}_max_difference"]) <= allowed:
            raise BadBundle(
                f"the exported {name} answers {difference:.6f} off the trained model (allowed {allowed}): "
                "not published. Please report it with the versions of TensorFlow and ai-edge-litert."
            )
    same_class = answers.int8.argmax(axis=1) == answers.trained.argmax(axis=1)
    labels = [
        decided_labels(given, classes=classes, mode=mode, policy=policy) for given in (answers.int8, answers.trained)
    ]
    figures["int8_class_agreement"] = float(same_class.mean())
    figures["int8_labels_agreement"] = float((labels[0] == labels[1]).all(axis=1).mean())
    return figures


def cpu_engine(parity: dict[str, float]) -> Literal["litert", "litert-fp32"]:
    """What CPUs take by default: int8 where it earned it."""
    return "litert" if parity["int8_class_agreement"] >= INT8_AGREEMENT else "litert-fp32"


def choose_golden(
    images: NDArray[np.uint8], answers: Answers, *, classes: tuple[str, ...], mode: Mode, policy: Policy
) -> Golden:
    """Up to 16 images whose labels are clear, so that another CPU's rounding can't change them."""
    clearness = _clearness(answers.int8, classes=classes, mode=mode, policy=policy)
    clear = np.flatnonzero(clearness > 2 * INT8_TOLERANCE)[:GOLDEN_IMAGES]
    if not len(clear):  # a model that is sure of nothing: its least unsure answer
        clear = np.array([clearness.argmax()])
    return Golden(images=images[clear], float32=answers.fp32[clear], int8=answers.int8[clear])


def _clearness(given: Floats, *, classes: tuple[str, ...], mode: Mode, policy: Policy) -> Floats:
    """How far each image's probabilities are from another label, [N]."""
    if mode == "single":
        ordered = np.sort(given, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])
    defects = [index for index, name in enumerate(classes) if name != GOOD]
    thresholds = np.array([policy.thresholds.get(classes[index], DEFAULT_THRESHOLD) for index in defects])
    return np.asarray(np.abs(given[:, defects] - thresholds).min(axis=1))
