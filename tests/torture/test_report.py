"""What the table and the verdict say: of images where a campaign sends images, of inputs where it does not."""

from __future__ import annotations

import pytest

from torture.report import print_reports, verdict
from torture.run import Report

IMAGES, INPUTS = "images acknowledged", "inputs"


def report(campaign: str, *, accepted: int = 0, inputs: int = 0) -> Report:
    figures = {"inputs": {"decoder, plain": inputs - 1, "jobs, plain": 1}} if inputs else {}
    return Report(
        campaign=campaign,
        seconds=1.0,
        accepted=accepted,
        refused=0,
        results=accepted,
        lost_by_server=0,
        attempts={},
        outcomes={},
        figures=figures,
        breaches=[],
    )


def test_the_verdict_counts_what_was_tried() -> None:
    kills, fuzz = report("kills", accepted=1_200), report("fuzz", inputs=53_515)
    assert verdict([kills]) == "every promise was kept, for 1,200 acknowledged images."
    assert verdict([fuzz]) == "every promise was kept, for 53,515 inputs."
    assert verdict([kills, fuzz]) == "every promise was kept, for 1,200 acknowledged images and 53,515 inputs."
    assert verdict([report("kills")]) == "every promise was kept, for 0 acknowledged images."


def test_a_campaign_without_images_has_no_rows_about_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_reports([report("fuzz", inputs=9)], seed=1)
    shown = capsys.readouterr().out
    assert INPUTS in shown
    assert "images" not in shown and "results by" not in shown
    print_reports([report("kills", accepted=9)], seed=1)
    assert IMAGES in capsys.readouterr().out
