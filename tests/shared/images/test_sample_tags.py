"""Files of more than 8 bits per sample give the pixels of the same picture in 8 bits, or are refused with a reason."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.images.decoder_process import DecoderProcess
from shared.images.decoding import decode_image
from tests.shared.images.pictures import bottle, encode, from_array, refusal
from torture.corpus import bombs

SIZE_PX = 96
GRAY = np.asarray(bottle(SIZE_PX, SIZE_PX).convert("L")).clip(0, 200)  # nothing in it is white
MAX_SAMPLE_VALUE, SMAX_SAMPLE_VALUE, COLOR_MAP = 281, 341, 320
WHITE_IS_ZERO, BY_CHANNEL, SIGNED, IEEE_FLOAT = 0, 2, 2, 3


def shifted(bits: int, *, dtype: str = "u2", brightest: int = 200) -> Any:
    """The gray picture as a camera that gives `bits` bits stores it."""
    return (GRAY.clip(0, brightest).astype(np.int64) << (bits - 8)).astype(dtype)


def read(data: bytes, **options: Any) -> np.ndarray:
    pixels = decode_image(data, size_px=SIZE_PX, **options)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def png(values: np.ndarray, *, color_type: int = 0, sbit: bytes = b"") -> bytes:
    """A PNG of 16 bits per sample; `values` [H, W] or [H, W, channels]."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = bombs.png_header(values.shape[1], values.shape[0], depth=16, color=color_type)
    tag = bombs.png_chunk(b"sBIT", sbit) if sbit else b""
    return bombs.PNG_START + header + tag + bombs.png_pixels(rows) + bombs.PNG_END


def bare_tiff(
    values: np.ndarray, *, bits: list[int], photometric: int = 1, order: str = "<", **numbers: list[int]
) -> bytes:
    """A TIFF of the gray picture's size with these bytes as its pixels, as Pillow doesn't write it."""
    tags = bombs.layout((SIZE_PX, SIZE_PX), bits, photometric, compression=1, **numbers)
    return bombs.tiff(tags, [values.tobytes()], order=order)


def packed_12(values: np.ndarray) -> np.ndarray:
    """Two samples in three bytes."""
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8)


def tiff(values: np.ndarray, **tags: int) -> bytes:
    numbers = {"max_sample": MAX_SAMPLE_VALUE, "smax_sample": SMAX_SAMPLE_VALUE}
    return encode(from_array(values), "TIFF", tiffinfo={numbers[name]: value for name, value in tags.items()})


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_tag_gives_the_pixels_of_8_bits(bits: int) -> None:
    values, top = shifted(bits) | 1, (1 << bits) - 1
    for data in (
        png(values, sbit=bytes([bits])),
        png(values, sbit=bytes([bits, bits])[:1]),
        tiff(values, max_sample=top),
        tiff(values, smax_sample=top),
    ):
        assert np.array_equal(read(data), GRAY)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i2", ">i2", "<i4", "<f4"])
@pytest.mark.parametrize("bits", [10, 12])
def test_the_setting_is_for_every_kind_of_sample(bits: int, dtype: str) -> None:
    """Little and big endian, with a sign, 32 bits, floats; PNG is read the same."""
    values = shifted(bits, dtype=dtype)
    # Whole numbers of 32 bits and floats are scaled and rounded.
    assert np.abs(read(tiff(values), sample_bits=bits).astype(int) - GRAY).max() <= 1
    assert np.array_equal(read(png(shifted(bits)), sample_bits=bits), GRAY)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i2", "<i4", "<f4"])
def test_samples_whose_bits_are_unclear_are_refused(dtype: str) -> None:
    error = refusal(tiff(shifted(12, dtype=dtype)))
    assert error.reason == "unsupported"
    assert "only go up to 3,200" in str(error)
    assert "sample_bits" in str(error)


def test_a_white_spot_proves_the_bits() -> None:
    white = GRAY.copy()
    white[3, 4] = 255
    for dtype in ("<u2", "<i2", "<i4", "<f4"):
        values = (white.astype(np.int64) * 4095 // 255).astype(dtype)
        assert np.abs(read(tiff(values)).astype(int) - white).max() <= 1


@pytest.mark.parametrize("largest", [255.5, 255.6, 255.99])
def test_floats_just_above_white_do_not_become_black(largest: float) -> None:
    values = GRAY.astype("<f4")
    values[3, 4] = largest
    assert "only go up to 256" in str(refusal(tiff(values)))
    assert "go up to 256, which is more than 8 bits" in str(refusal(tiff(values), sample_bits=8))


def test_packed_12_bits_are_read_as_such() -> None:
    """TIFF's own form of 12 bits: two samples in three bytes."""
    for order in "<>":
        assert np.array_equal(read(bare_tiff(packed_12(shifted(12)), bits=[12], order=order)), GRAY)
        negative = bare_tiff(packed_12(4095 - shifted(12)), bits=[12], photometric=WHITE_IS_ZERO, order=order)
        assert np.array_equal(read(negative), GRAY)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_tiff_whose_white_is_zero_is_no_negative(bits: int, order: str) -> None:
    """Scanners and X-ray detectors write these. Pillow inverts samples of 8 bits, but not of 16."""
    stored = (((1 << bits) - 1) - shifted(bits).astype(int)).astype(order + ("u1" if bits == 8 else "u2"))
    data = bare_tiff(stored, bits=[stored.itemsize * 8], photometric=WHITE_IS_ZERO, order=order)
    assert np.array_equal(read(data, sample_bits=bits), GRAY)


def test_floats_whose_white_is_zero_are_no_negative() -> None:
    stored = (1 - GRAY / 255).astype("<f4")
    data = bare_tiff(stored, bits=[32], photometric=WHITE_IS_ZERO, t339=[IEEE_FLOAT])
    assert np.array_equal(read(data), GRAY)


def test_of_16_bits_with_a_sign_15_are_used() -> None:
    values = (GRAY.astype(np.int64) << 7) | 1
    signed = bare_tiff(values.astype("<i2"), bits=[16], t339=[SIGNED])
    assert np.array_equal(read(signed), (values * 255 / 32_767).round())
    assert np.array_equal(read(tiff(values.astype("<u2"))), GRAY >> 1)
    assert np.array_equal(read(tiff(values.astype("<i4"))), (values * 255 / 65_535).round())


def test_samples_that_pillow_would_mix_up_are_refused() -> None:
    planes = [shifted(16)] * 3
    tags = bombs.layout((SIZE_PX, SIZE_PX), [16, 16, 16], 2, compression=1, t284=[BY_CHANNEL])
    assert "PlanarConfiguration 2" in str(refusal(bombs.tiff(tags, [plane.tobytes() for plane in planes])))
    tags |= bombs.layout((SIZE_PX, SIZE_PX), [8, 8, 8], 2, compression=1)
    assert np.array_equal(read(bombs.tiff(tags, [GRAY.astype("u1").tobytes()] * 3)), GRAY)


def test_kinds_that_are_not_known_are_named() -> None:
    for bits, told in (([14], "samples per pixel: 1, bits per sample: 14"), ([16, 16], "samples per pixel: 2, bits")):
        error = refusal(bare_tiff(shifted(16), bits=bits))
        assert told in str(error)
        assert "8 or 16 bits per sample" in str(error)
    assert "its header can't be read" in str(refusal(b"II*\0\x08\0\0\0" + bytes(40)))


def test_a_jpeg_of_12_bits_is_named() -> None:
    data = bytearray(encode(bottle(), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    error = refusal(bytes(data))
    assert error.reason == "unsupported"
    assert str(error) == "this JPEG has 12 bits per sample: send 8, or a 16-bit PNG or TIFF."


def test_gray_with_alpha_and_colors_that_fill_few_bits_are_refused() -> None:
    clear = np.full((SIZE_PX, SIZE_PX), 65_535)
    gray = shifted(12)
    for values, color_type in (
        (np.stack([gray, clear], axis=-1), 4),
        (np.stack([gray] * 3, axis=-1), 2),
        (np.stack([gray] * 3 + [clear], axis=-1), 6),
    ):
        assert "Send 8 bits per sample" in str(refusal(png(values, color_type=color_type)))
        full = np.where(values == 65_535, 65_535, values << 4)
        assert np.array_equal(read(png(full, color_type=color_type)), GRAY)
        assert read(png(values, color_type=color_type), sample_bits=16).max() == 200 >> 4


def test_a_tiff_palette_of_8_bits_is_not_black() -> None:
    """The entries of a TIFF palette have 16 bits. Some programs write 0 to 255 into them, which libtiff accepts."""
    data = encode(bottle().quantize(16), "TIFF")
    with Image.open(io.BytesIO(data)) as frame:
        colors = frame.tag_v2[COLOR_MAP]
    old = struct.pack(f"<{len(colors)}H", *colors)
    assert old in data
    small = data.replace(old, struct.pack(f"<{len(colors)}H", *(value >> 8 for value in colors)))
    assert np.array_equal(decode_image(small, size_px=32), decode_image(data, size_px=32))


def test_the_number_of_bits_is_reported() -> None:
    reported: list[int] = []
    read(png(shifted(12) | 1, sbit=b"\x0c"), on_sample_bits=reported.append)
    read(png(shifted(16)), on_sample_bits=reported.append)
    decode_image(encode(bottle(), "PNG"), size_px=8, on_sample_bits=reported.append)
    decode_image(encode(bottle(), "JPEG"), size_px=8, on_sample_bits=reported.append)
    read(bare_tiff(packed_12(shifted(12)), bits=[12]), on_sample_bits=reported.append)
    read(png(np.stack([shifted(16)] * 3, axis=-1), color_type=2), on_sample_bits=reported.append)
    assert reported == [12, 16, 12, 16]


def test_numbers_that_nobody_had_to_find_out_are_not_reported() -> None:
    reported: list[int] = []
    for values in (np.zeros_like(GRAY, "<u2"), GRAY / np.float32(255), GRAY.astype("<f4"), GRAY.astype("<i4") << 20):
        read(tiff(values.astype("<f4") if values.dtype.kind == "f" else values), on_sample_bits=reported.append)
    assert not reported


def test_a_decoder_process_reads_the_same(tmp_path: Path) -> None:
    data = png(shifted(12))
    out = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    process = DecoderProcess()
    try:
        process.decode_into(data, out, sample_bits=12)
    finally:
        process.close()
    assert np.array_equal(out[..., 0], GRAY)
