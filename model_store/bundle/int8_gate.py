"""Decides whether a version's int8 model is good enough for CPUs to run it by default.

In: `manifest.parity`, the measured differences between the exports. Out: the engine, or the reason why CPUs don't run
int8. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

# int8 must lead to the same labels as fp32 on at least this share of the compared images, and may lose at most this
# much macro F1 on them. Views of images count as images: a few images can't show a share of 99 %. The comparison is of
# labels, not of the most probable class, because a result states labels, and they choose the lane. In `multi` the most
# probable class may not even be one of the labels, because a defect may have a low threshold.
INT8_AGREEMENT = 0.99
INT8_MACRO_F1_LOSS = 0.005


def default_cpu_engine(parity: Mapping[str, float]) -> Literal["litert", "litert-fp32"]:
    """The engine that CPUs run by default: int8 (`litert`) if it passes the gate, else fp32."""
    return "litert" if int8_refusal_reason(parity) is None else "litert-fp32"


def int8_refusal_reason(parity: Mapping[str, float]) -> str | None:
    """The reason why CPUs do not run int8 by default, as a sentence for people; None if they do.

    Args:
        parity: what `export.parity.measure_parity` returned.
    """
    images = f"the {parity['images'] + parity.get('views', 0):.0f} compared images"
    agreement = parity["int8_labels_agreement"]
    if not agreement >= INT8_AGREEMENT:
        return (
            f"int8 gives the same labels as fp32 on {agreement:.2%} of {images}, below the required "
            f"{INT8_AGREEMENT:.0%}: CPUs run fp32 by default."
        )
    if "int8_macro_f1" not in parity:
        return None
    fp32, int8 = parity["fp32_macro_f1"], parity["int8_macro_f1"]
    if round(fp32 - int8, 6) > INT8_MACRO_F1_LOSS:
        return (
            f"int8 has a macro F1 of {int8:.4f} on {images} and fp32 has {fp32:.4f}. It may lose at most "
            f"{INT8_MACRO_F1_LOSS}, so CPUs run fp32 by default."
        )
    return None
