"""What the summary of a version says of rechecks."""

from __future__ import annotations

import pytest

from model_store.bundle.manifest import Manifest
from model_store.reports.model_summary import gate_verdict, summary_sections
from tests.model_store.reports.report_data import report_data

PARITY = {"images": 400.0, "int8_labels_agreement": 0.998, "int8_alone_labels_agreement": 0.95, "int8_rechecked": 0.14}


def manifest(parity: dict[str, float], **changes: object) -> Manifest:
    data = report_data(("good", "no cap", "cracked"), "multi")
    return data.manifest.model_copy(update={"parity": parity, **changes})


def rows(given: Manifest) -> dict[str, str]:
    return {name: value for section in summary_sections(given) for name, value in section.rows}


def test_it_says_how_many_images_are_rechecked_and_what_int8_does_alone() -> None:
    found = rows(manifest(PARITY, cpu_engine="litert", int8_recheck_margin=0.3127))
    assert found["on CPUs"] == ("int8 (litert): it gives the same labels as fp32, which rechecks 14% of the images")
    assert found["fp32 rechecks int8"] == "if a decision is closer than 0.31 logits"
    assert found["int8: share of images that fp32 rechecks"] == "0.140"
    assert found["int8 without rechecks: same decided labels as fp32"] == "0.950"


def test_without_rechecks_it_says_nothing_of_them() -> None:
    found = rows(manifest({"images": 400.0, "int8_labels_agreement": 0.998}, cpu_engine="litert"))
    assert found["on CPUs"] == "int8 (litert): it gives the same labels as fp32"
    assert not [name for name in found if "recheck" in name]


@pytest.mark.parametrize("engine", ["litert-fp32", "litert"])
def test_too_many_rechecks_are_the_reason_for_fp32(engine: str) -> None:
    verdict = gate_verdict(manifest(PARITY | {"int8_rechecked": 0.5}, cpu_engine=engine))
    assert ("fp32 would recheck 50.0%" in verdict) == (engine == "litert-fp32")
    assert "same labels" not in verdict
