"""The golden check: does an engine on this machine give the answers that the bundle was published with?

In: a bundle and an engine. Out: nothing, or a BadBundle. No engine serves before it has passed.
"""

from __future__ import annotations

import numpy as np

from model_store.bundle.files import Bundle
from model_store.bundle.golden import read_golden
from model_store.bundle.policy import decide
from model_store.engines.protocol import Engine
from shared.errors import BadBundle

# On another CPU (vector width, threads), float engines sum in a different order. That shifts a probability by about
# 1e-6, or by up to 1e-4 if it also shifts the rectangle that the bottle is cropped to (8.2e-5 measured between
# TensorFlow and LiteRT). 1e-3 leaves room for that and for a GPU, and is far too little to matter to any policy.
FLOAT_TOLERANCE = 1e-3
# An int8 probability changes in steps of about 1/256. If one layer rounds the other way (another CPU's instructions),
# the output can shift by a few steps. So a dozen steps are allowed, but the labels must be the same: the labels, not
# the exact probabilities, send a bottle to a lane.
INT8_TOLERANCE = 0.05
# Half precision has 11 bits of mantissa. In measurements it shifted probabilities by up to 0.004, and by 0.011 where it
# also shifted the rectangle that the bottle is cropped to. GPUs sum in other orders, so four times as much is allowed,
# and as with int8 the labels must be the same.
MIXED_TOLERANCE = 0.05

_ROUNDED = {"litert": INT8_TOLERANCE, "tensorflow-mixed": MIXED_TOLERANCE}


def replay_golden(bundle: Bundle, engine: Engine) -> None:
    """Make `engine` answer the golden images in one batch, and compare its answers with the expected ones.

    Raises:
        BadBundle: an answer differs by more than the engine's tolerance, or (int8, mixed) leads to other labels;
            the message says how large the difference is.
        EngineFailed: the engine couldn't answer at all.
    """
    golden = read_golden(bundle)
    answers = engine.predict(np.ascontiguousarray(golden.images))
    expected = golden.int8 if engine.name == "litert" else golden.float32
    tolerance = _ROUNDED.get(engine.name, FLOAT_TOLERANCE)
    differences = np.abs(answers - expected).max(axis=1)
    worst = int(differences.argmax())
    subject = f"{bundle.path} on engine {engine.name}"
    # `not <=` instead of `>`, so that a difference that is not a number doesn't pass.
    if not differences[worst] <= tolerance:
        raise BadBundle(
            f"{subject}: the answer to golden image {worst} is off by {differences[worst]:.6f} (allowed {tolerance}). "
            "On this machine the model doesn't give the answers that it gave when it was made: publish it again, or "
            "choose another --engine."
        )
    if engine.name not in _ROUNDED:
        return
    for index, (now, before) in enumerate(zip(answers.tolist(), expected.tolist(), strict=True)):
        if (is_now := _labels(bundle, now)) != (was := _labels(bundle, before)):
            raise BadBundle(
                f"{subject}: golden image {index} is now {_joined(is_now)}, but was {_joined(was)} when the "
                f"model was made (largest difference {differences[worst]:.6f}). Publish the model again, or choose "
                "another --engine."
            )


def _joined(labels: set[str]) -> str:
    return " + ".join(sorted(labels)) or "without a label"


def _labels(bundle: Bundle, probabilities: list[float]) -> set[str]:
    manifest = bundle.manifest
    return {
        name for name, _ in decide(probabilities, manifest.classes, mode=manifest.mode, policy=manifest.policy).labels
    }
