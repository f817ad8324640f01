"""How many bits samples use: by what the file stores, the setting, its tag, and the brightest sample."""

from __future__ import annotations

import pytest

from shared.errors import BadImage
from shared.images.sample_bits import Samples, SampleSource, check_colors, used_bits

ANY = 0xFFFF


def bits(largest: int, *, any_bits: int = ANY, **source: int) -> int:
    return used_bits(Samples(largest, any_bits), SampleSource(**({"stored_bits": 16} | source)))


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(0, 16), (255, 8), (1023, 10), (4095, 12), (16_383, 14), (16_384, 16), (65_535, 16)],
)
def test_samples_can_prove_their_bits(largest: int, expected: int) -> None:
    assert bits(largest) == expected


@pytest.mark.parametrize("largest", [1, 254, 256, 700, 1020, 1022, 1024, 3000, 4080, 4094, 4096, 16_382])
def test_a_dark_picture_is_not_told_from_one_of_fewer_bits(largest: int) -> None:
    with pytest.raises(BadImage, match=rf"only go up to {largest:,}. Either they use fewer bits or .*SAMPLE_BITS=12"):
        bits(largest)


def test_the_setting_goes_before_tags_and_samples() -> None:
    assert bits(700, setting_bits=12) == 12
    assert bits(4095, setting_bits=16) == 16
    assert bits(1023, setting_bits=12, tag_bits=10) == 12
    with pytest.raises(BadImage, match="go up to 4,096, which is more than 12 bits, the sample_bits of"):
        bits(4096, setting_bits=12)


def test_what_is_stored_in_fewer_bits_has_no_more() -> None:
    assert bits(300, stored_bits=12) == 12
    assert bits(300, stored_bits=12, setting_bits=10) == 12


def test_a_tag_tells_of_a_dark_picture() -> None:
    assert bits(300, tag_bits=12) == 12
    assert bits(300, tag_bits=16) == 16


def test_a_tag_that_the_samples_disprove_does_not_count() -> None:
    assert bits(20_000, tag_bits=12) == 16
    with pytest.raises(BadImage, match="6,000"):
        bits(6_000, tag_bits=12)
    with pytest.raises(BadImage, match="3,000"):
        bits(3_000, tag_bits=3)


def test_a_png_may_be_scaled_up_as_its_standard_wants() -> None:
    png = {"tag_bits": 12, "is_png": True}
    assert bits(6_000, **png) == 16
    assert bits(300, **png) == 12  # not a multiple of 16: as the camera gave it
    assert bits(3_200, any_bits=0xFFF0, **png) == 12  # scaled up it would be black
    with pytest.raises(BadImage, match="960"):  # dark either way
        bits(960, any_bits=0xFFF0, **png)


def test_of_colors_only_the_upper_eight_bits_are_read() -> None:
    check_colors(0x40, SampleSource(16))
    check_colors(0x03, SampleSource(16, setting_bits=16))
    check_colors(0x03, SampleSource(16, tag_bits=16))
    check_colors(0xFF, SampleSource(8))
    for source in (SampleSource(16), SampleSource(16, tag_bits=12), SampleSource(16, setting_bits=12)):
        with pytest.raises(BadImage, match=r"only go up to about 4,095.*Send 8 bits per sample"):
            check_colors(0x0F, source)
    with pytest.raises(BadImage, match=r"go up to 65,535, which is more than 12 bits.* 16 if the camera .* scales"):
        check_colors(0xFF, SampleSource(16, setting_bits=12))
