"""The corpus: large enough, the same in every run, and decided by the decoder as it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from producer.sources.picture_files import is_picture
from shared.errors import BadImage
from shared.images import decoder_process
from shared.images.decoding import decode_image
from torture.corpus import slow_files
from torture.corpus.case import SORTED, Case, either, is_sorted, reason_in, rejected
from torture.corpus.corpus import HEAVY, all_cases, sample

SEED = 7


@pytest.fixture(scope="session")
def cases() -> Sequence[Case]:
    return all_cases(SEED)


@pytest.fixture(scope="session")
def light(cases: Sequence[Case]) -> Sequence[Case]:
    """The heavy families are left to the command."""
    return [case for case in cases if case.family not in HEAVY]


def test_it_is_large_and_its_names_are_unique(cases: Sequence[Case]) -> None:
    assert len(cases) >= 500
    assert [name for name, count in Counter(case.name for case in cases).items() if count > 1] == []
    assert {case.family for case in cases} >= {*HEAVY, "cut", "polyglot", "missing rows", "name", "JPEG scans"}


def test_a_folder_camera_takes_every_file_for_a_picture(cases: Sequence[Case]) -> None:
    assert [case.name for case in cases if not is_picture(case.name) or "/" in case.name] == []


def test_nothing_is_made_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise all files would be in memory at once."""

    def refuse(*_: object, **__: object) -> bytes:
        raise AssertionError("made too early")

    for name in ("progressive_scans", "exif_tags", "tiff_byte_strips", "png_chunks", "webp_chunks", "bmp_rle_lines"):
        monkeypatch.setattr(slow_files, name, refuse)
    assert len(all_cases(SEED)) >= 500


@pytest.mark.slow
def test_a_seed_makes_the_same_files(cases: Sequence[Case]) -> None:
    def content(cases: Sequence[Case]) -> list[tuple[str, bytes]]:
        families = ("cut", "ended early", "other format")
        return [(case.name, case.make()) for case in cases if case.family in families]

    assert content(all_cases(SEED)) == content(cases)
    assert content(all_cases(SEED + 1)) != content(cases)


def test_two_answers_are_right_only_for_a_reason(cases: Sequence[Case]) -> None:
    for case in cases:
        expected = case.expected
        assert expected.may_be_sorted or expected.reasons, case.name
        assert bool(expected.why) == (expected.may_be_sorted and bool(expected.reasons)), case.name


def test_a_sample_has_a_file_of_each_light_family(cases: Sequence[Case], light: Sequence[Case]) -> None:
    some = sample(list(cases), 60, seed=1)
    assert len(some) == 60
    assert {case.family for case in some} == {case.family for case in light}


@pytest.mark.slow
def test_the_decoder_decides_as_it_says(light: Sequence[Case]) -> None:
    assert [wrong for case in light if (wrong := _wrong_decision(case))] == []


@pytest.mark.slow
def test_the_decoder_decides_as_it_says_wherever_a_file_is_cut() -> None:
    """With one seed of four, a JPEG ends within a table."""
    cases = [case for seed in range(8, 18) for case in all_cases(seed) if case.family in ("cut", "ended early")]
    assert [wrong for case in cases if (wrong := _wrong_decision(case))] == []


def _wrong_decision(case: Case) -> str | None:
    reason = text = None
    try:
        decode_image(case.make(), size_px=32)
    except BadImage as error:
        reason, text = error.reason, str(error)
    is_right = case.expected.allows("rejected" if text else SORTED, text) and reason_in(text or "") == reason
    return None if is_right else f"{case.name}: {reason}, {text}; expected {case.expected}"


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


@pytest.mark.parametrize("expired", [False, True])
def test_a_file_that_takes_too_long_is_told_by_its_message(expired: bool) -> None:
    """On a busy machine the limit on the time by the clock may come first."""
    error = decoder_process._too_long("BMP", max_decode_s=10.0, expired=expired)
    assert reason_in(str(error)) == error.reason == "unsupported"
