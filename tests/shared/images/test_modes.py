"""An image converted piece by piece has the same pixels as one converted at once."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from shared.errors import BadImage
from shared.images import modes
from shared.images.decoding import decode_image
from shared.images.modes import to_resizable
from tests.shared.images.pictures import KINDS, bottle, encode, from_array

GRAY = np.asarray(bottle().convert("L"))
ALPHA = bottle().convert("RGBA")
ALPHA.putalpha(bottle().convert("L").rotate(90, expand=False))

FILES = KINDS | {
    "png-gray-alpha": encode(ALPHA.convert("LA"), "PNG"),
    "png-real-alpha": encode(ALPHA, "PNG"),
    "png-palette-alpha": encode(bottle().quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
    "png-key": encode(bottle(), "PNG", transparency=bottle().getpixel((5, 5))),
    "png-gray-key": encode(bottle().convert("L"), "PNG", transparency=100),
    "png-1-key": encode(bottle().convert("1"), "PNG", transparency=0),
    "tiff-int": encode(from_array(GRAY.astype(np.int32) * 200), "TIFF"),
    "tiff-16": encode(from_array(GRAY.astype(np.uint16) * 255), "TIFF"),
    "tiff-big-endian-16": encode(from_array(GRAY.astype(">u2") * 255), "TIFF"),
    "tiff-lab": encode(Image.merge("LAB", bottle().split()), "TIFF"),
    "webp-alpha": encode(ALPHA, "WEBP", lossless=True),
}


@pytest.mark.parametrize("piece_px", [7, 96 * 3, 96 * 64 - 1])  # less than a row, some rows, all but one pixel
@pytest.mark.parametrize("kind", FILES)
def test_pieces_give_the_pixels_of_the_whole(kind: str, piece_px: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decode_image(FILES[kind], size_px=24)
    monkeypatch.setattr(modes, "PIECE_PX", piece_px)
    assert np.array_equal(decode_image(FILES[kind], size_px=24), whole)


@pytest.mark.parametrize("kind", [kind for kind in FILES if "alpha" in kind or "key" in kind])
def test_transparency_is_resized_as_pillow_does_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "PIECE_PX", 100)
    with Image.open(io.BytesIO(FILES[kind])) as frame:
        expected = frame.convert("RGBA").resize((20, 16), Image.Resampling.BILINEAR, reducing_gap=2.0)
        frame.load()
        assert frame.has_transparency_data
        resized = to_resizable(frame, premultiplied=True).resize((20, 16), Image.Resampling.BILINEAR, reducing_gap=2.0)
    assert np.array_equal(np.asarray(resized.convert("RGBA")), np.asarray(expected))


def test_what_is_not_resized_keeps_the_colors_under_its_transparency() -> None:
    with Image.open(io.BytesIO(encode(ALPHA, "PNG"))) as frame:
        assert np.array_equal(np.asarray(to_resizable(frame, premultiplied=False)), np.asarray(ALPHA))


@pytest.mark.parametrize("wrong", [np.nan, -1.0, 70_000.0])
@pytest.mark.parametrize("at", [0, -1])
def test_the_full_scale_is_that_of_all_pieces(wrong: float, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value in the first or last piece decides that the whole picture has no full scale."""
    monkeypatch.setattr(modes, "PIECE_PX", 100)
    values = GRAY.astype(np.float32) / 255
    values.flat[at] = wrong
    with pytest.raises(BadImage) as caught:
        decode_image(encode(from_array(values), "TIFF"), size_px=8)
    assert caught.value.reason == "unsupported"
