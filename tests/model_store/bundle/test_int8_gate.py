"""The conditions under which CPUs run int8 by default."""

from __future__ import annotations

import pytest

from model_store.bundle.int8_gate import INT8_MAX_RECHECKED, default_cpu_engine, int8_notes, int8_refusal_reason


def parity(*, agreement: float = 1.0, fp32: float = 0.9, int8: float = 0.9, **more: float) -> dict[str, float]:
    return {
        "images": 200.0,
        "int8_labels_agreement": agreement,
        "fp32_macro_f1": fp32,
        "int8_macro_f1": int8,
        **more,
    }


@pytest.mark.parametrize(
    "earned",
    [
        parity(),
        parity(agreement=0.99),
        parity(int8=0.895),
        parity(int8=0.95),
        parity(int8_class_agreement=0.5),
        parity(int8_rechecked=INT8_MAX_RECHECKED, int8_alone_labels_agreement=0.9),
        {"images": 10.0, "int8_labels_agreement": 1.0},
    ],
)
def test_int8_that_passes_the_gate_is_the_default(earned: dict[str, float]) -> None:
    assert int8_refusal_reason(earned) is None
    assert default_cpu_engine(earned) == "litert"


@pytest.mark.parametrize(
    ("missed", "reason"),
    [
        (parity(agreement=0.9899), "same labels as fp32 on 98.99% of the 200 compared images, below the required 99%"),
        (parity(agreement=float("nan")), "below the required 99%"),
        (parity(int8=0.8949), "macro F1 of 0.8949 on the 200 compared images and fp32 has 0.9000. It may lose"),
        (
            parity(agreement=0.985, int8_rechecked=0.2),
            "98.50% of the 200 compared images, after fp32 has rechecked 20% of them, below the required 99%",
        ),
        (
            parity(int8_rechecked=0.334),
            "fp32 would recheck 33.4% of the 200 compared images, more than the allowed 33%. That is hardly faster",
        ),
        (parity(int8_rechecked=float("nan")), "fp32 would recheck nan%"),
        ({"images": 10.0, "int8_labels_agreement": 0.9}, "90.00% of the 10 compared images"),
    ],
)
def test_int8_that_fails_the_gate_is_not_the_default_and_the_reason_is_reported(
    missed: dict[str, float], reason: str
) -> None:
    assert default_cpu_engine(missed) == "litert-fp32"
    refusal = int8_refusal_reason(missed)
    assert refusal is not None
    assert reason in refusal
    assert "CPUs run fp32 by default" in refusal


def test_the_user_is_told_of_rechecks_and_of_refusals() -> None:
    assert int8_notes(parity()) == ()
    (rechecks,) = int8_notes(parity(agreement=0.998, int8_rechecked=0.123, int8_alone_labels_agreement=0.95))
    assert "int8 alone gives the same labels as fp32 on 95.00% of the compared images" in rechecks
    assert "12.3% of them; then it is 99.80%." in rechecks
    missed = parity(agreement=0.9)
    assert int8_notes(missed) == (int8_refusal_reason(missed),)
