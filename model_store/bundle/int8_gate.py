"""Decides whether a version's int8 model is good enough for CPUs to run it by default.

In: `manifest.parity`, the measured differences between the exports. Out: the engine, or the reason why CPUs don't run
int8. Pure. Where fp32 rechecks int8's close answers (`engines.recheck`), the gate judges the answers after rechecks,
because they are what the engine gives.
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
# fp32 may recheck at most this share of the images. An image costs int8 half to 0.6 of what it costs fp32. So with more
# rechecks int8 would gain little, and it would still need the memory of both models.
INT8_MAX_RECHECKED = 1 / 3


def default_cpu_engine(parity: Mapping[str, float]) -> Literal["litert", "litert-fp32"]:
    """The engine that CPUs run by default: int8 (`litert`) if it passes the gate, else fp32."""
    return "litert" if int8_refusal_reason(parity) is None else "litert-fp32"


def int8_refusal_reason(parity: Mapping[str, float]) -> str | None:
    """The reason why CPUs do not run int8 by default, as a sentence for people; None if they do.

    Args:
        parity: what `export.recheck_margin.measure_exports` returned.
    """
    images = f"the {parity['images'] + parity.get('views', 0):.0f} compared images"
    agreement, rechecked = parity["int8_labels_agreement"], parity.get("int8_rechecked", 0.0)
    if not agreement >= INT8_AGREEMENT:
        after = f", after fp32 has rechecked {rechecked:.0%} of them" if rechecked else ""
        return (
            f"int8 gives the same labels as fp32 on {agreement:.2%} of {images}{after}, below the required "
            f"{INT8_AGREEMENT:.0%}: CPUs run fp32 by default."
        )
    if not rechecked <= INT8_MAX_RECHECKED:
        return (
            f"int8 is so often unsure that fp32 would recheck {rechecked:.1%} of {images}, more than the allowed "
            f"{INT8_MAX_RECHECKED:.0%}. That is hardly faster than fp32 alone, so CPUs run fp32 by default."
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


def int8_notes(parity: Mapping[str, float]) -> tuple[str, ...]:
    """What the user should know of int8, as sentences: the reason of a refusal, or what rechecks do."""
    if refusal := int8_refusal_reason(parity):
        return (refusal,)
    if "int8_rechecked" not in parity:
        return ()
    return (
        f"int8 alone gives the same labels as fp32 on {parity['int8_alone_labels_agreement']:.2%} of the compared "
        f"images. fp32 rechecks those of which int8 is unsure, {parity['int8_rechecked']:.1%} of them; then it is "
        f"{parity['int8_labels_agreement']:.2%}.",
    )
