"""Finds out how many bits a picture's samples use, e.g. 12 if a 12-bit camera's values are stored in a 16-bit PNG.

In: what a file says about its samples, the samples themselves, and the setting `sample_bits`. Out: the number of bits,
or BadImage if it is unclear. Pure. Called by `modes`.

If a 12-bit picture is read as 16 bits, it is nearly black, and the model still gives an answer. If a dark 16-bit
picture is read as 12 bits, it is far too bright. So an unclear picture is refused. The first rule that applies decides:

    1. the file stores fewer than 16 bits per sample (TIFF's BitsPerSample, e.g. 12): that number
    2. the setting `sample_bits` is set, or else the model was trained with one number: that number
    3. the file has a tag: PNG's sBIT, or TIFF's MaxSampleValue or SMaxSampleValue if all its bits are ones, e.g. 4095
    4. the brightest sample shows the number: if it needs more than 14 bits, 16, or 15 if the samples have a sign; if
       it is exactly white at 8, 10, 12 or 14 bits (255, 1023, 4095 or 16383), that number. If all samples are zero, any
       number gives black
"""

from __future__ import annotations

from typing import NamedTuple

from shared.errors import BadImage

FULL_BITS = 16
# The numbers of bits that cameras and their programs store in 16 bits.
_USUAL_BITS = (8, 10, 12, 14)


class SampleSource(NamedTuple):
    """What is known about a file's samples before they are read."""

    stored_bits: int = 8  # per sample, in the file
    tag_bits: int | None = None  # according to the file's tag
    setting_bits: int = 0  # `sample_bits`; 0: not set
    is_png: bool = False
    is_signed: bool = False  # one of the 16 bits is the sign
    is_negative: bool = False  # 0 stands for white: TIFF's WhiteIsZero


class Samples(NamedTuple):
    """What is known from the samples themselves."""

    largest: int
    any_bits: int  # bitwise `or` of all samples


def used_bits(samples: Samples, source: SampleSource) -> int:
    """The number of bits that the samples use, 8 to 16, by the rules at the top of this file.

    Raises:
        BadImage: `unsupported`: the samples need more bits than the setting says, or the number is unclear.
    """
    if 8 <= source.stored_bits < FULL_BITS:
        return source.stored_bits
    if source.setting_bits:
        return _set_bits(samples.largest, source.setting_bits)
    bits = _by_tag(samples, source) or _by_largest(samples.largest, is_signed=source.is_signed)
    if bits is None:
        raise BadImage(
            "unsupported",
            f"its 16-bit samples only go up to {samples.largest:,}. Either they use fewer bits or the picture is dark; "
            "the file doesn't say which. Set sample_bits to the number of bits that the camera gives (e.g. "
            "SORTLINE_SAMPLE_BITS=12), or send 8 bits per sample.",
        )
    return bits


def check_colors(largest_upper_byte: int, source: SampleSource) -> None:
    """Refuse a color picture that stores 16 bits per sample but uses fewer.

    Of colors, and of gray with transparency, the codec keeps only the upper eight of the 16 bits, so the bits that are
    used would be lost.

    Raises:
        BadImage: `unsupported`.
    """
    known = source.setting_bits or source.tag_bits
    if source.stored_bits < FULL_BITS or known == FULL_BITS:
        return
    largest = largest_upper_byte << 8
    if source.setting_bits and largest >> source.setting_bits:
        raise _above_setting_error(largest | 255, source.setting_bits)
    if source.setting_bits or not largest >> _USUAL_BITS[-1]:
        raise BadImage(
            "unsupported",
            f"its 16-bit color samples only go up to about {largest | 255:,}, and of colors only the upper eight bits "
            "can be read. Send 8 bits per sample, or scale the samples up to 65,535. If the picture is meant to be "
            "dark, set sample_bits = 16.",
        )


def _set_bits(largest: int, bits: int) -> int:
    if largest >> bits:
        raise _above_setting_error(largest, bits)
    return bits


def _above_setting_error(largest: int, bits: int) -> BadImage:
    return BadImage(
        "unsupported",
        f"its samples go up to {largest:,}, which is more than {bits} bits, the sample_bits of the settings or of the "
        "model. Set sample_bits to the number of bits that the file's samples use: 16 if the camera or its program "
        "scales them up.",
    )


def _by_tag(samples: Samples, source: SampleSource) -> int | None:
    """The number of bits according to the file's tag; None if there is no tag, or it is wrong or ambiguous."""
    bits = source.tag_bits
    if bits is None or not 8 <= bits <= FULL_BITS:
        return None
    if not source.is_png:
        return None if samples.largest >> bits else bits
    # By the PNG standard, samples are scaled up to all 16 bits; many programs store them unscaled.
    if samples.largest >> bits:
        return FULL_BITS
    is_multiple = not samples.any_bits & (1 << (FULL_BITS - bits)) - 1
    is_dark = not samples.largest >> (bits - 2)  # if unscaled; if scaled, the picture is almost black
    return None if is_multiple and is_dark else bits


def _by_largest(largest: int, *, is_signed: bool) -> int | None:
    if not largest or largest >> _USUAL_BITS[-1]:
        return FULL_BITS - is_signed
    return next((bits for bits in _USUAL_BITS if largest == (1 << bits) - 1), None)
