"""The corpus: large enough, the same in every run, and decided by the decoder as it says."""

from __future__ import annotations

from collections import Counter

import pytest

from producer.sources.picture_files import is_picture
from shared.errors import BadImage
from shared.images.decoding import decode_image
from torture.corpus.case import SORTED, Case, either, is_sorted, reason_in, rejected
from torture.corpus.corpus import HEAVY, all_cases, sample

SEED = 7
CASES = all_cases(SEED)
LIGHT = [case for case in CASES if case.family not in HEAVY]
FAMILIES = sorted({case.family for case in LIGHT})


def test_it_is_large_and_its_names_are_unique() -> None:
    assert len(CASES) >= 500
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []
    assert {case.family for case in CASES} >= {*HEAVY, "cut", "polyglot", "missing rows", "name", "JPEG scans"}


def test_a_folder_camera_takes_every_file_for_a_picture() -> None:
    assert [case.name for case in CASES if not is_picture(case.name) or "/" in case.name] == []


def test_a_seed_makes_the_same_files() -> None:
    def content(cases: list[Case]) -> list[tuple[str, bytes]]:
        return [(case.name, case.make()) for case in cases if case.family in ("cut", "ended early")]

    assert content(all_cases(SEED)) == content(CASES)
    assert content(all_cases(SEED + 1)) != content(CASES)


def test_two_answers_are_right_only_for_a_reason() -> None:
    for case in CASES:
        expected = case.expected
        assert expected.may_be_sorted or expected.reasons, case.name
        assert bool(expected.why) == (expected.may_be_sorted and bool(expected.reasons)), case.name


def test_a_sample_has_a_file_of_each_light_family() -> None:
    some = sample(CASES, 60, seed=1)
    assert len(some) == 60
    assert {case.family for case in some} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_decides_as_it_says(family: str) -> None:
    """The heavy families are left to the command."""
    for case in LIGHT:
        if case.family != family:
            continue
        reason = text = None
        try:
            decode_image(case.make(), size_px=32)
        except BadImage as error:
            reason, text = error.reason, str(error)
        assert (reason_in(text) if text else None) == reason, (case.name, text)
        assert case.expected.allows("rejected" if text else SORTED, text), (case.name, reason, text)


def test_what_is_expected_is_told_from_what_is_not() -> None:
    text = "the image has no bytes"
    assert rejected("empty").allows("rejected", text)
    assert not rejected("format").allows("rejected", text)
    assert not rejected("empty").allows("rejected", "something else")
    assert not rejected("empty").allows(SORTED, None)
    assert not is_sorted().allows("rejected", text)
    assert not is_sorted().allows("failed", text)
    assert either("empty", why="a test").allows(SORTED, None)
    assert str(either("empty", why="a test")) == "sorted or rejected (empty)"
