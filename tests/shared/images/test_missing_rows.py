"""Pictures of which the file lacks the last rows, although its end mark is there."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

import shared.images.missing_rows
from shared.images.decoding import decode_image
from tests.shared.images.pictures import KINDS, SIZE_PX, bottle, encode, refusal
from torture.corpus.bombs import PNG_END, PNG_START, layout, png_chunk, png_header, png_pixels, tiff

EOI = b"\xff\xd9"
SIDE = 150
LACKS = "lacks a part of its picture"

JPEGS: dict[str, bytes] = {
    "baseline": encode(bottle(SIDE, SIDE), "JPEG"),
    "progressive": encode(bottle(SIDE, SIDE), "JPEG", progressive=True),
    "restarts": encode(bottle(SIDE, SIDE), "JPEG", restart_marker_blocks=2),
    "gray": encode(bottle(SIDE, SIDE).convert("L"), "JPEG"),
    "CMYK": encode(bottle(SIDE, SIDE).convert("CMYK"), "JPEG"),
}


def cut(jpeg: bytes, share: float) -> bytes:
    """The file without the rest of its scans."""
    scan = jpeg.index(b"\xff\xda")
    return jpeg[: scan + int((len(jpeg) - scan) * share)]


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_jpeg_that_ends_early_is_truncated(kind: str, share: float) -> None:
    refused = refusal(cut(JPEGS[kind], share) + EOI)
    assert (refused.reason, LACKS in str(refused)) == ("truncated", True)
    assert refusal(cut(JPEGS[kind], share)).reason == "truncated"


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts", "gray"])
def test_a_jpeg_that_lacks_its_last_bytes_is_truncated(kind: str) -> None:
    data = JPEGS[kind]
    assert LACKS in str(refusal(data[:-4] + EOI))


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_claims_more_rows_than_it_has_is_truncated(kind: str) -> None:
    data = bytearray(JPEGS[kind])
    frame = data.index(b"\xff\xc2" if kind == "progressive" else b"\xff\xc0")
    data[frame + 5 : frame + 7] = struct.pack(">H", 3 * SIDE)
    assert refusal(bytes(data)).reason == "truncated"


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts", "gray"])
@pytest.mark.parametrize("end", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_mark_is_accepted(kind: str, end: int) -> None:
    whole = decode_image(JPEGS[kind], size_px=SIZE_PX)
    assert np.array_equal(decode_image(JPEGS[kind][:-end], size_px=SIZE_PX), whole)


@pytest.mark.parametrize("kind", ["baseline", "progressive", "gray"])
def test_zeros_in_place_of_the_rest_are_not_taken_for_pixels(kind: str) -> None:
    """A file whose length was reserved before it was written, or a download that was broken off."""
    data = cut(JPEGS[kind], 0.6)
    for zeros in (1, 100, 100_000):
        assert refusal(data + bytes(zeros)).reason == "truncated"


@pytest.mark.parametrize("kind", ["baseline", "progressive", "gray"])
def test_zeros_in_place_of_the_end_mark_are_accepted(kind: str) -> None:
    whole = decode_image(JPEGS[kind], size_px=SIZE_PX)
    assert np.array_equal(decode_image(JPEGS[kind][:-2] + bytes(5_000), size_px=SIZE_PX), whole)


@pytest.mark.parametrize("kind", ["baseline", "gray"])
@pytest.mark.parametrize("junk", [bytes(50), b"\1\2\3"])
def test_harmless_bytes_before_or_after_the_end_mark_are_accepted(kind: str, junk: bytes) -> None:
    whole = decode_image(JPEGS[kind], size_px=SIZE_PX)
    for data in (JPEGS[kind][:-2] + junk + EOI, JPEGS[kind] + junk):
        assert np.array_equal(decode_image(data, size_px=SIZE_PX), whole)


# PNG ────────────────────────────────────────────────────────────────────────────────────────────────


def png_of(width: int, height: int, raw: bytes, *, color: int = 2, interlace: int = 0, pieces: int = 1) -> bytes:
    """A PNG with these rows, in one IDAT chunk or several."""
    header = png_header(width, height, color=color, last=bytes([0, 0, interlace]))
    return PNG_START + header + png_pixels(raw, pieces=pieces) + PNG_END


def rows(count: int, width: int, value: int = 200) -> bytes:
    return (b"\0" + bytes([value]) * (3 * width)) * count


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("there", [1, 30, 63])
def test_a_png_with_fewer_rows_than_its_header_says_is_truncated(there: int, pieces: int) -> None:
    assert refusal(png_of(64, 64, rows(there, 64), pieces=pieces)).reason == "truncated"


def test_a_png_that_ends_within_a_row_is_truncated() -> None:
    assert refusal(png_of(64, 64, rows(64, 64)[:-1])).reason == "truncated"


@pytest.mark.parametrize("value", [0, 200])
def test_a_png_with_all_its_rows_or_more_is_accepted(value: int) -> None:
    """A black one is looked at twice."""
    for count in (64, 70):
        assert decode_image(png_of(64, 64, rows(count, 64, value)), size_px=4).shape == (4, 4, 3)


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def interlaced(width: int, height: int, *, passes: int, value: int) -> bytes:
    raw = b""
    for left, top, step_x, step_y in ADAM7[:passes]:
        columns, count = len(range(left, width, step_x)), len(range(top, height, step_y))
        raw += rows(count, columns, value) if columns else b""
    return png_of(width, height, raw, interlace=1)


@pytest.mark.parametrize("size", [(16, 16), (15, 15), (9, 1), (1, 9)])
def test_an_interlaced_png_that_lacks_a_pass_is_truncated(size: tuple[int, int]) -> None:
    last = 6 if size[1] == 1 else 7
    assert refusal(interlaced(*size, passes=last - 1, value=200)).reason == "truncated"
    for value in (0, 200):
        assert decode_image(interlaced(*size, passes=7, value=value), size_px=4).shape == (4, 4, 3)


def test_a_png_whose_first_chunk_is_not_its_header_is_corrupt() -> None:
    """Its depth and colors would be read from other bytes."""
    data = png_of(64, 64, rows(64, 64))
    refused = refusal(data[:8] + png_chunk(b"tEXt", b"a\0b") + data[8:])
    assert (refused.reason, "first chunk" in str(refused)) == ("corrupt", True)


def test_a_png_with_a_short_header_is_not_measured_by_the_bytes_after_it() -> None:
    data = png_of(64, 64, rows(64, 64))
    assert refusal(data[:8] + png_chunk(b"IHDR", data[16:20]) + data[33:]).reason == "corrupt"


# TIFF ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("compression", [1, 32773])
def test_a_tiff_that_lists_fewer_strips_than_cover_it_is_truncated(compression: int) -> None:
    tags = layout((16, 16), [8], 1, compression=compression)
    packed = (b"\x0f" + bytes(range(50, 66))) if compression != 1 else bytes(range(50, 66))
    whole = tiff({**tags, 278: (4, [1])}, [packed] * 16)
    assert decode_image(whole, size_px=SIZE_PX).shape == (SIZE_PX, SIZE_PX, 3)
    for strips in (1, 15):
        refused = refusal(tiff({**tags, 278: (4, [1])}, [packed] * strips))
        assert refused.reason == ("truncated" if compression == 1 else "corrupt")  # libtiff itself misses a strip


def test_a_tiff_that_lists_fewer_tiles_than_cover_it_is_truncated() -> None:
    tags = layout((32, 32), [8], 1, compression=1, t322=[16], t323=[16])
    tile = bytes(range(256))
    assert decode_image(tiff(tags, [tile] * 4, tiled=True), size_px=SIZE_PX).shape == (SIZE_PX, SIZE_PX, 3)
    assert refusal(tiff(tags, [tile] * 3, tiled=True)).reason == "truncated"


@pytest.mark.parametrize("kind", ["png", "png-palette", "png-alpha", "png-16", "apng", "mpo", "jpeg-cmyk"])
def test_a_picture_that_ends_in_colors_is_not_looked_at_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is inflated twice, and no JPEG is decoded twice."""

    def fail(_: bytes) -> int:
        raise AssertionError("looked at again")

    monkeypatch.setattr(shared.images.missing_rows, "_inflated_bytes", fail)
    monkeypatch.setattr(shared.images.missing_rows, "is_complete", fail)
    assert decode_image(KINDS[kind], size_px=SIZE_PX).shape == (SIZE_PX, SIZE_PX, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: encode(Image.new("CMYK", (SIDE, SIDE), (9, 9, 9, 9)), "JPEG"),
        lambda: encode(Image.new("RGB", (SIDE, SIDE), "white"), "MPO", save_all=True),
        lambda: encode(Image.new("1", (9, 9)), "PNG"),
        lambda: encode(Image.new("I;16", (9, 9)), "PNG"),
        lambda: encode(Image.new("P", (9, 9)), "PNG"),
        lambda: encode(Image.new("LA", (9, 9)), "PNG"),
        lambda: encode(Image.new("RGBA", (9, 9)), "PNG"),
    ],
)
def test_a_picture_of_one_color_is_accepted(make: Callable[[], bytes]) -> None:
    assert decode_image(make(), size_px=SIZE_PX).shape == (SIZE_PX, SIZE_PX, 3)
