"""Whether a version's int8 model is good enough to be what CPUs run by default.

In: `manifest.parity`, the measured differences between the exports. Out: the engine, or the reason against int8. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

# int8 must decide the same labels as fp32 on at least this share of the images, and may lose at most this much macro
# F1. Labels are compared, not the most probable class: a result states labels, and they choose the lane. In `multi` the
# most probable class need not even be one of the labels, because a defect may have a low threshold.
INT8_AGREEMENT = 0.99
INT8_MACRO_F1_LOSS = 0.005


def default_cpu_engine(parity: Mapping[str, float]) -> Literal["litert", "litert-fp32"]:
    """The engine that CPUs run by default: int8 (`litert`) if it passes the gate, else fp32."""
    return "litert" if int8_refusal_reason(parity) is None else "litert-fp32"


def int8_refusal_reason(parity: Mapping[str, float]) -> str | None:
    """Why CPUs do not run int8 by default, as a sentence for people; None if they do.

    Args:
        parity: what `export.parity.measure_parity` returned.
    """
    images = f"the {parity['images']:.0f} images compared on"
    agreement = parity["int8_labels_agreement"]
    if not agreement >= INT8_AGREEMENT:
        return (
            f"int8 comes to the same labels as fp32 on {agreement:.2%} of {images}, below {INT8_AGREEMENT:.0%}: "
            "CPUs take fp32 by default."
        )
    if "int8_macro_f1" not in parity:
        return None
    fp32, int8 = parity["fp32_macro_f1"], parity["int8_macro_f1"]
    if round(fp32 - int8, 6) > INT8_MACRO_F1_LOSS:
        return (
            f"int8 has a macro F1 of {int8:.4f} on {images}, fp32 {fp32:.4f}: more than {INT8_MACRO_F1_LOSS} lost, "
            "so CPUs take fp32 by default."
        )
    return None
