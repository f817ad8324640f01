"""The conditions under which CPUs run int8 by default."""

from __future__ import annotations

import pytest

from model_store.bundle.int8_gate import default_cpu_engine, int8_refusal_reason


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
