"""Whether the exported files answer as the trained model did, measured on images it never saw.

In: the trained module and a folder of exports. Out: the figures of `manifest.parity`, what CPUs take by default, and
the golden answers. The files are loaded from disk by the engines that serve them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.files import FLOAT_TOLERANCE, INT8_TOLERANCE, Golden
from model_store.bundle.manifest import FP32_FILE, INT8_FILE, SAVED_MODEL_DIR
from model_store.bundle.policy import DEFAULT_THRESHOLD, GOOD, Mode, Policy
from model_store.datasets.lazy_images import in_batches
from model_store.engines.litert import LiteRTEngine
from model_store.engines.loading import Engine, usable_cores
from model_store.engines.tensorflow import TensorFlowEngine
from model_store.evaluation.metrics import Bools, judge
from model_store.evaluation.metrics import figures as figures_of
from model_store.runtime.native_output import quiet_native
from shared.errors import BadBundle

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
        exported = [in_batches(engine.predict, images, size=_BATCH_SIZE) for engine in engines]
        trained = in_batches(lambda batch: module.serve(batch)["probabilities"], images, size=_BATCH_SIZE)
    return Answers(trained, *exported)


def measure(
    answers: Answers,
    *,
    classes: tuple[str, ...],
    mode: Mode,
    policy: Policy,
    labels: Sequence[tuple[str, ...]] | None = None,
    known: Bools | None = None,
) -> dict[str, float]:
    """The figures of `manifest.parity`.

    `…_max_difference` is the largest difference of any probability to the trained model's. The others compare int8
    with fp32: `int8_class_agreement` is the share of images with the same most probable class,
    `int8_labels_agreement` with the same decided labels, `int8_sure_disagreement` with other labels that neither of
    the two leaves to a person. `fp32_macro_f1` and `int8_macro_f1` are there when the true labels are given.

    Args:
        labels: the true ones of the N images.
        known: bool [N, C], as of `evaluation.judge`.

    Raises:
        BadBundle: a float export answers otherwise than the model that was trained; it must not be published.
    """
    figures: dict[str, float] = {"images": len(answers.trained)} | _differences(answers)
    # Without true labels only the decisions are looked at, not whether they are right.
    truth = labels if labels is not None else [()] * len(answers.trained)
    kind: dict[str, Any] = {"classes": classes, "mode": mode, "policy": policy}
    fp32, int8 = (judge(given, truth, known=known, **kind) for given in (answers.fp32, answers.int8))
    same_class = answers.int8.argmax(axis=1) == answers.fp32.argmax(axis=1)
    same_labels = (int8.decided == fp32.decided).all(axis=1)
    figures["int8_class_agreement"] = float(same_class.mean())
    figures["int8_labels_agreement"] = float(same_labels.mean())
    figures["int8_sure_disagreement"] = float((~same_labels & ~int8.uncertain & ~fp32.uncertain).mean())
    if labels is not None:
        figures["fp32_macro_f1"] = figures_of(fp32)["macro_f1"]
        figures["int8_macro_f1"] = figures_of(int8)["macro_f1"]
    return figures


def _differences(answers: Answers) -> dict[str, float]:
    found = {
        f"{name}_max_difference": float(np.abs(getattr(answers, name) - answers.trained).max())
        for name in ("saved_model", "fp32", "int8")
    }
    for name, allowed in (("saved_model", RELOAD_TOLERANCE), ("fp32", FLOAT_TOLERANCE)):
        if not (difference := found[f"{name}_max_difference"]) <= allowed:
            raise BadBundle(
                f"the exported {name} answers {difference:.6f} off the trained model (allowed {allowed}): "
                "not published. Please report it with the versions of TensorFlow and ai-edge-litert."
            )
    return found


def choose_golden(
    images: NDArray[np.uint8], answers: Answers, *, classes: tuple[str, ...], mode: Mode, policy: Policy
) -> Golden:
    """Up to 16 images whose labels are clear, so that another CPU's rounding can't change them.

    Of every set of labels that was decided on, as many as there is room for: images often come class by class.
    """
    kind: dict[str, Any] = {"classes": classes, "mode": mode, "policy": policy}
    clearness = _clearness(answers.int8, **kind)
    clear = np.flatnonzero(clearness > 2 * INT8_TOLERANCE)
    if not len(clear):  # a model that is sure of nothing: its least unsure answer
        clear = np.array([clearness.argmax()])
    decided = judge(answers.int8, [()] * len(images), **kind).decided
    chosen = np.sort(_by_turns(clear, decided[clear])[:GOLDEN_IMAGES])
    return Golden(images=images[chosen], float32=answers.fp32[chosen], int8=answers.int8[chosen])


def _by_turns(rows: NDArray[np.intp], kinds: Bools) -> NDArray[np.intp]:
    """The rows: the first of every kind, then the second of every kind, and so on; `kinds` has a line for each."""
    seen: Counter[tuple[bool, ...]] = Counter()
    turns = []
    for kind in map(tuple, kinds.tolist()):
        turns.append(seen[kind])
        seen[kind] += 1
    return rows[np.argsort(turns, kind="stable")]


def _clearness(given: Floats, *, classes: tuple[str, ...], mode: Mode, policy: Policy) -> Floats:
    """How far each image's probabilities together have to move for another label, [N].

    Two move towards each other in `single`; in `multi` one moves towards a threshold, which stays, and counts twice.
    """
    if mode == "single":
        ordered = np.sort(given, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])
    defects = [index for index, name in enumerate(classes) if name != GOOD]
    thresholds = np.array([policy.thresholds.get(classes[index], DEFAULT_THRESHOLD) for index in defects])
    return np.asarray(2 * np.abs(given[:, defects] - thresholds).min(axis=1))
