"""Crop regions: which are valid, which are refused, and the pixels that decoding keeps."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from shared.errors import BadSetting
from shared.images.crop_regions import Region, parse_region, region_of
from shared.images.decoding import decode_image, decode_into
from tests.shared.images.pictures import SIZE_PX, UNDO, bottle, codec_sizes, encode, exif, plain

REGION = Region(0.25, 0.125, 0.75, 1)  # no symmetry of the square maps it onto itself


def cut(image: Image.Image, region: Region) -> Image.Image:
    """The reference: whole pixels of the full-size upright picture."""
    width, height = image.size
    sides = [region.left * width, region.top * height, region.right * width, region.bottom * height]
    assert all(side == round(side) for side in sides)
    left, top, right, bottom = map(round, sides)
    return image.crop((left, top, right, bottom))


def test_a_region_is_read_as_it_is_written() -> None:
    assert parse_region(" 0.1, 0,0.9,1 ") == Region(0.1, 0, 0.9, 1)
    assert str(Region(0.1, 0, 0.9, 1)) == "0.1,0,0.9,1"
    third = Region(0.333333333, 0.125, 0.666666667, 1)
    assert parse_region(str(third)) == third


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1,0,0.9", "3 numbers"),
        ("0.1,0,0.9,1,1", "5 numbers"),
        ("", "could not convert"),
        ("0.1;0;0.9;1", "could not convert"),
        ("0.9,0,0.1,1", "left 0.9, right 0.1: should be from 0 to 1, left first"),
        ("0,1,1,1", "top 1, bottom 1"),
        ("-0.1,0,1,1", "left -0.1"),
        ("0,0,1,1.5", "bottom 1.5"),
        ("10,0,90,100", "left 10, right 90"),
        ("nan,0,1,1", "left nan"),
        ("0,0,0.005,1", "left 0 to right 0.005 is less than 0.01 of the picture"),
    ],
)
def test_what_is_no_region_is_reported_with_the_fix(text: str, message: str) -> None:
    with pytest.raises(BadSetting, match=message) as caught:
        parse_region(text)
    assert repr(text) in str(caught.value)
    assert "e.g. 0.1,0,0.9,1" in str(caught.value)


def test_a_region_survives_json() -> None:
    kept = TypeAdapter(dict[str, Region])
    regions = {"top-1": Region(0.1, 0, 0.9, 1), "*": REGION}
    assert kept.validate_json(kept.dump_json(regions)) == regions
    with pytest.raises(ValidationError, match="left first"):
        kept.validate_python({"top-1": {"left": 0.9, "top": 0, "right": 0.1, "bottom": 1}})


def test_a_camera_has_its_own_region_or_everybodys_or_none() -> None:
    own, other = Region(0, 0, 0.5, 1), Region(0.5, 0, 1, 1)
    assert region_of("side", {"side": own, "*": other}) == own
    assert region_of("top", {"side": own, "*": other}) == region_of(None, {"side": own, "*": other}) == other
    assert region_of("top", {"side": own}) is region_of(None, {}) is None


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_region_is_the_cropped_picture(kind: str) -> None:
    pixels = decode_image(encode(bottle(), kind), size_px=SIZE_PX, region=REGION)
    difference = np.abs(pixels - plain(cut(bottle(), REGION), SIZE_PX))
    assert difference[1:-1, 1:-1].max() <= 1
    assert difference.max() <= 8  # the filter sees beyond the region's edge, where the cut picture has nothing


@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (1920, 1080)])
def test_a_region_of_a_jpeg_scaled_in_the_codec_stays_near_the_cropped_full_size(size: tuple[int, int]) -> None:
    data = encode(bottle(*size), "JPEG", quality=88)
    with Image.open(io.BytesIO(data)) as whole:
        difference = np.abs(decode_image(data, size_px=112, region=REGION) - plain(cut(whole, REGION), 112))
    assert difference.mean() < 1.0  # of 255, as for whole frames
    assert np.percentile(difference, 99) <= 4


def test_the_codec_scales_only_as_far_as_the_region_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    given = codec_sizes(monkeypatch)
    lying = encode(bottle(1920, 1080), "JPEG")
    standing = encode(bottle(1080, 1920), "JPEG", exif=exif(6))  # upright it is 1920 x 1080 too
    for data, expected in ((lying, (960, 540)), (standing, (540, 960))):
        given.clear()
        # For 448 pixels the region's 960 columns and 1080 rows allow one half. The whole frame's 1920 columns would
        # allow a quarter. A standing frame is stored turned, so there the region's columns are rows of the file.
        decode_image(data, size_px=448, region=Region(0.25, 0, 0.75, 1))
        assert set(given) == {expected}
    given.clear()
    decode_image(lying, size_px=112, region=Region(0.25, 0, 0.75, 1))
    assert set(given) == {(240, 135)}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_region_is_cut_from_the_upright_picture(kind: str, orientation: int) -> None:
    upright = bottle(128, 128)
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(UNDO[orientation]))
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encode(stored, kind, exif=exif(orientation), **options)
    difference = np.abs(decode_image(data, size_px=SIZE_PX, region=REGION) - plain(cut(upright, REGION), SIZE_PX))
    assert difference.mean() < 1.5, orientation


def test_a_region_may_lie_between_pixels() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 250, 10, dtype=np.uint8), (25, 1)))  # 25 columns: 0, 10, 20 …
    half = decode_image(encode(ramp, "PNG"), size_px=25, region=Region(0.22, 0, 0.62, 1))  # columns 5.5 to 15.5
    assert half[12, 12].tolist() == pytest.approx([100] * 3, abs=1)  # the middle lies in column 10.5, its center
    assert half[12, 0, 0] < 60 and half[12, 24, 0] > 140


def test_the_whole_picture_is_a_region_too() -> None:
    for kind in ("PNG", "JPEG"):
        data = encode(bottle(640, 480), kind)
        whole = decode_image(data, size_px=SIZE_PX, region=Region(0, 0, 1, 1))
        assert np.array_equal(whole, decode_image(data, size_px=SIZE_PX))


def test_the_smallest_region_of_a_small_picture_can_be_decoded() -> None:
    out = np.empty((4, 4, 3), np.uint8)
    decode_into(encode(bottle(8, 8), "PNG"), out, region=Region(0.99, 0.99, 1, 1))
    assert np.abs(out - np.asarray(bottle(8, 8))[-1, -1].astype(int)).max() <= 1
