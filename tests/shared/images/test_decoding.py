"""The decoder: what it accepts, and what becomes of each kind of pixel."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.errors import BadImage
from shared.images.crop_regions import Fit, Region
from shared.images.decoding import decode_image, decode_into
from shared.images.formats import sniff
from tests.shared.images.pictures import (
    KINDS,
    SIZE_PX,
    UNDO,
    bottle,
    codec_sizes,
    encode,
    exif,
    flat,
    from_array,
    only_color,
    plain,
    refusal,
)
from torture.corpus import bombs

# --- signatures


@pytest.mark.parametrize("kind", KINDS)
def test_sniff_names_the_content_type(kind: str) -> None:
    family = {"mpo": "jpeg", "apng": "png"}.get(kind, kind.split("-")[0])
    assert sniff(KINDS[kind]) == f"image/{family}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GIF89a" + bytes(20), "a GIF"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "video"),
        (b"\r\n <!DOCTYPE html><html>", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b'{"error": "no such file"}', "JSON"),
        (b"PK\x03\x04" + bytes(20), "zip"),
        (b"BM is how this text begins, by chance", "text"),
        (bytes(64), "zero bytes"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "52 49 46 46"),
        (b"\xfe", "fe"),
    ],
)
def test_other_formats_are_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(BadImage, match=message) as caught:
        sniff(data)
    assert caught.value.reason == "format"
    assert "JPEG, PNG, WEBP, BMP, TIFF" in str(caught.value)
    assert refusal(data).reason == "format"


def test_no_bytes_are_empty() -> None:
    assert refusal(b"").reason == "empty"


# --- shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_px", [1, SIZE_PX, 224])
def test_every_kind_gives_the_same_array_type(kind: str, size_px: int) -> None:
    pixels = decode_image(KINDS[kind], size_px=size_px)
    assert pixels.shape == (size_px, size_px, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("kind", ["png", "apng", "webp-lossless", "bmp", "tiff", "tiff-pages"])
def test_lossless_kinds_show_the_same_picture(kind: str) -> None:
    assert np.abs(decode_image(KINDS[kind], size_px=SIZE_PX) - plain(bottle(), SIZE_PX)).max() <= 1


@pytest.mark.parametrize("kind", ["jpeg", "jpeg-progressive", "mpo", "webp", "webp-animated", "tiff-jpeg"])
def test_lossy_kinds_show_about_the_same_picture(kind: str) -> None:
    assert np.abs(decode_image(KINDS[kind], size_px=SIZE_PX) - plain(bottle(), SIZE_PX)).mean() < 6


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = bottle(SIZE_PX, SIZE_PX)
    assert np.array_equal(decode_image(encode(image, "PNG"), size_px=SIZE_PX), np.asarray(image))


def test_the_frame_is_squashed_whole() -> None:
    wide = Image.new("RGB", (400, 100), "blue")
    wide.paste((255, 0, 0), (0, 0, 200, 100))
    pixels = decode_image(encode(wide, "PNG"), size_px=SIZE_PX)
    assert pixels[:, : SIZE_PX // 2 - 1].tolist() == [[[255, 0, 0]] * (SIZE_PX // 2 - 1)] * SIZE_PX
    assert pixels[:, SIZE_PX // 2 + 1 :].tolist() == [[[0, 0, 255]] * (SIZE_PX // 2 - 1)] * SIZE_PX


def test_decode_into_fills_one_row_of_a_batch() -> None:
    batch = np.zeros((3, SIZE_PX, SIZE_PX, 3), np.uint8)
    decode_into(KINDS["jpeg"], batch[1])
    assert np.array_equal(batch[1], decode_image(KINDS["jpeg"], size_px=SIZE_PX))
    assert not batch[0].any() and not batch[2].any()


@pytest.mark.parametrize("size", [(SIZE_PX, SIZE_PX), (96, 64)])  # decoded straight into its row, and resized before
def test_decode_into_leaves_the_neighbors_of_a_broken_image_alone(size: tuple[int, int]) -> None:
    batch = np.full((3, SIZE_PX, SIZE_PX, 3), 7, np.uint8)
    with pytest.raises(BadImage):
        decode_into(encode(bottle(*size), "JPEG")[:-200], batch[1])
    assert (batch[0] == 7).all() and (batch[2] == 7).all()


@pytest.mark.parametrize("out", [np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_decode_into_wants_a_square_of_bytes(out: Any) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[S, S, 3\]"):
        decode_into(KINDS["jpeg"], out)


# --- padding


def padded(image: Image.Image, size_px: int) -> np.ndarray:
    """The reference: resized in its shape in one step, then each pixel outside takes the nearest one inside."""
    width, height = image.size
    longer = max(width, height)
    width, height = (max(1, round(side * size_px / longer)) for side in (width, height))
    inside = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    rows = np.clip(np.arange(size_px) - (size_px - height) // 2, 0, height - 1)
    columns = np.clip(np.arange(size_px) - (size_px - width) // 2, 0, width - 1)
    return inside[rows][:, columns]


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (96, 32), (41, 96), (33, 32), (20, 9)])
def test_padding_keeps_the_shape_and_repeats_the_border(size: tuple[int, int]) -> None:
    image = bottle(*size)
    pixels = decode_image(encode(image, "PNG"), size_px=SIZE_PX, fit="pad")
    assert np.abs(pixels - padded(image, SIZE_PX)).max() <= 1


def test_padding_lays_the_picture_in_the_middle() -> None:
    """33 x 11 pixels, the first row of them white: rows 11 to 21 of 33."""
    image = from_array(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]] * 11, np.uint8).repeat(11, axis=1))
    image.paste("white", (0, 0, 33, 1))
    pixels = decode_image(encode(image, "PNG"), size_px=33, fit="pad")
    assert np.array_equal(pixels[11:22], np.asarray(image))
    assert (pixels[:12] == 255).all()
    assert np.array_equal(pixels[22:], np.asarray(image)[-1:].repeat(11, axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_a_square_is_stretching_it(kind: str) -> None:
    """Byte by byte: nothing is decoded, scaled or rounded differently."""
    with Image.open(io.BytesIO(KINDS[kind])) as image:
        width, height = image.size
    turned = Region(0, 0, 1, 2 / 3) if kind in ("jpeg-exif", "tiff-lzw") else None  # 64 x 96 upright
    region = turned or Region(0, 0, 2 / 3, 1)
    assert (width, height) in ((96, 64), (64, 96))
    for size_px in (1, 5, SIZE_PX, 64, 100):
        stretched, filled = (
            decode_image(KINDS[kind], size_px=size_px, region=region, fit=fit) for fit in ("stretch", "pad")
        )
        assert np.array_equal(stretched, filled), size_px


@pytest.mark.parametrize("side", [7, SIZE_PX, 449, 1080])
def test_padding_a_square_jpeg_is_stretching_it(side: int) -> None:
    data = encode(bottle(side, side), "JPEG")
    assert np.array_equal(decode_image(data, size_px=112, fit="pad"), decode_image(data, size_px=112))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [(96, 41), (41, 96)])
def test_padding_is_done_to_the_upright_picture(size: tuple[int, int], kind: str, orientation: int) -> None:
    upright = bottle(*size)
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(UNDO[orientation]))
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encode(stored, kind, exif=exif(orientation), **options)
    pixels = decode_image(data, size_px=SIZE_PX, fit="pad")
    difference = np.abs(pixels - padded(upright, SIZE_PX))
    assert difference.mean() < 1.5 if kind == "JPEG" else difference.max() <= 1, orientation


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_padding_a_region_goes_by_the_regions_shape(kind: str, orientation: int) -> None:
    """Half of a landscape is a portrait: its sides are filled, by its own border and not by what lies beyond it."""
    upright = bottle(120, 80)
    region, part = Region(0.25, 0, 0.5, 1), upright.crop((30, 0, 60, 80))
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(UNDO[orientation]))
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    data = encode(stored, kind, exif=exif(orientation), **options)
    pixels = decode_image(data, size_px=40, region=region, fit="pad")
    difference = np.abs(pixels - padded(part, 40))
    assert difference[:, 14:26].mean() < 2
    assert (pixels[:, :12] == pixels[:, 12, None]).all() and (pixels[:, 27:] == pixels[:, 26, None]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("region", [None, Region(0.5, 0.5, 0.51, 0.51)])
def test_a_line_of_pixels_can_be_decoded(kind: str, fit: Fit, region: Region | None) -> None:
    ramp = np.repeat(np.linspace(0, 250, 2000).round().astype(np.uint8)[:, None, None], 3, axis=2)
    standing, lying = (
        decode_image(encode(from_array(line), kind), size_px=SIZE_PX, region=region, fit=fit).astype(int)
        for line in (ramp, np.ascontiguousarray(ramp.transpose(1, 0, 2)))
    )
    assert np.abs(standing - standing[:, :1]).max() == 0  # one column, repeated
    assert np.abs(lying - standing.transpose(1, 0, 2)).max() <= 2
    if region is None:
        expected = 250 * (np.arange(SIZE_PX) + 0.5) / SIZE_PX
        assert np.abs(standing[:, 0, 0] - expected).max() <= 3


def test_decode_into_pads_one_row_of_a_batch() -> None:
    batch = np.zeros((3, SIZE_PX, SIZE_PX, 3), np.uint8)
    decode_into(KINDS["png"], batch[1], fit="pad")
    assert np.array_equal(batch[1], decode_image(KINDS["png"], size_px=SIZE_PX, fit="pad"))
    assert not batch[0].any() and not batch[2].any()


# --- the JPEG decoder's own scaling


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (1920, 1080), (449, 1801)])
def test_scaling_in_the_codec_stays_near_a_plain_resize(size: tuple[int, int], fit: Fit) -> None:
    data = encode(bottle(*size), "JPEG", quality=88)
    with Image.open(io.BytesIO(data)) as whole:
        reference = plain(whole, 224) if fit == "stretch" else padded(whole, 224)
    difference = np.abs(decode_image(data, size_px=224, fit=fit) - reference)
    assert difference.mean() < 1.0  # of 255; measured 0.3 to 0.6 on noisy frames
    assert np.percentile(difference, 99) <= 4


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])  # Pillow decodes the second
def test_scaling_in_the_codec_is_used_for_large_frames(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(bottle(1920, 1080).convert(mode), "JPEG")
    given = codec_sizes(monkeypatch)
    decode_image(data, size_px=224)
    assert set(given) == {(480, 270)}
    given.clear()
    decode_image(data, size_px=224, fit="pad")  # 224 x 126 of it are the picture
    assert set(given) == {(240, 135)}
    given.clear()
    decode_image(data, size_px=224, region=Region(0, 0, 0.25, 1), fit="pad")  # 480 x 1080 become 100 x 224
    assert set(given) == {(480, 270)}


# --- pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (64, 64), "black")
    upright.paste((255, 0, 0), (0, 0, 32, 32))
    upright.paste((0, 255, 0), (32, 0, 64, 32))
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(UNDO[orientation]))
    pixels = decode_image(encode(stored, kind, exif=exif(orientation)), size_px=16)
    for row, column, color in [(3, 3, (255, 0, 0)), (3, 12, (0, 255, 0)), (12, 3, (0, 0, 0)), (12, 12, (0, 0, 0))]:
        assert np.abs(pixels[row, column].astype(int) - color).max() < 30, (orientation, row, column)


def test_unreadable_exif_counts_as_upright() -> None:
    data = encode(bottle(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert np.array_equal(decode_image(data, size_px=SIZE_PX), decode_image(KINDS["jpeg"], size_px=SIZE_PX))


@pytest.mark.parametrize(
    ("data", "color"),
    [
        pytest.param(encode(flat(90, "L"), "PNG"), (90, 90, 90), id="gray"),
        pytest.param(encode(flat(90, "L"), "TIFF"), (90, 90, 90), id="gray TIFF"),
        pytest.param(encode(flat(1, "1"), "PNG"), (255, 255, 255), id="1 bit"),
        pytest.param(encode(flat(0, "1"), "BMP"), (0, 0, 0), id="1 bit BMP"),
        pytest.param(encode(flat((10, 20, 30)).quantize(4), "PNG"), (10, 20, 30), id="palette"),
        pytest.param(encode(flat((10, 20, 30, 0), "RGBA"), "PNG"), (255, 255, 255), id="clear is white"),
        pytest.param(encode(flat((10, 20, 30, 255), "RGBA"), "PNG"), (10, 20, 30), id="opaque"),
        pytest.param(encode(flat((0, 100, 200, 51), "RGBA"), "PNG"), (204, 224, 244), id="a fifth over white"),
        pytest.param(encode(flat((0, 51), "LA"), "PNG"), (204, 204, 204), id="gray with alpha"),
        pytest.param(encode(flat((9, 8, 7)), "PNG", transparency=(9, 8, 7)), (255, 255, 255), id="color key"),
        pytest.param(encode(flat((9, 8, 7)).quantize(2), "PNG", transparency=0), (255, 255, 255), id="palette key"),
        pytest.param(encode(flat((10, 20, 30, 0), "RGBA"), "WEBP", lossless=True), (255, 255, 255), id="WebP alpha"),
        pytest.param(encode(flat((0, 255, 255, 0), "CMYK"), "TIFF"), (255, 0, 0), id="CMYK TIFF"),
        pytest.param(encode(flat((51, 0, 0, 51), "CMYK"), "TIFF"), (163, 204, 204), id="CMYK with black"),
    ],
)
def test_pixels_become_rgb_by_the_stated_rules(data: bytes, color: tuple[int, ...]) -> None:
    assert only_color(data) == color


def test_cmyk_jpeg_is_inverted_only_under_adobes_marker() -> None:
    adobe = encode(flat((0, 255, 255, 0), "CMYK", (16, 16)), "JPEG", quality=100)
    at = adobe.index(b"\xff\xee")
    (length,) = struct.unpack(">H", adobe[at + 2 : at + 4])
    assert adobe[at + 4 : at + 9] == b"Adobe"
    plain_cmyk = adobe[:at] + adobe[at + 2 + length :]
    assert np.abs(decode_image(adobe, size_px=4) - np.array([255, 0, 0])).max() <= 2
    # The same numbers, not inverted: C = 255, M = Y = 0, K = 255 is black.
    assert decode_image(plain_cmyk, size_px=4).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(("value", "gray"), [(0, 0), (0x40FF, 0x40), (0x8000, 128), (0xFFFF, 255)])
def test_16_bit_gray_keeps_the_upper_eight(kind: str, value: int, gray: int) -> None:
    assert only_color(encode(from_array(np.full((8, 8), value, np.uint16)), kind)) == (gray,) * 3


def test_16_bit_big_endian_tiff() -> None:
    data = encode(Image.frombytes("I;16B", (8, 8), b"\x80\x01" * 64), "TIFF")
    assert only_color(data) == (128, 128, 128)


def test_16_bit_rgb_png_keeps_the_upper_eight() -> None:
    rows = (b"\0" + b"\x0a\xff\x14\xff\x5e\xff" * 4) * 4
    header = bombs.png_header(4, 4, depth=16)
    assert only_color(bombs.PNG_START + header + bombs.png_pixels(rows) + bombs.PNG_END) == (10, 20, 94)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 25700.0, 65535.0], [0, 100, 255]),
        ([0.0, 0.5, 1.001], [0, 128, 255]),
        ([0.0, 100.0, 255.4], [0, 100, 255]),
        ([0.0, 1.0, 2.0], [0, 1, 2]),
    ],
)
def test_float_tiff_takes_the_smallest_full_scale(values: list[float], expected: list[int]) -> None:
    image = from_array(np.tile(np.array(values, np.float32), (3, 1)))
    assert decode_image(encode(image, "TIFF"), size_px=3)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1, 255], [0, 1, 255]), ([0, 25700, 65535], [0, 100, 255]), ([0, 2**31 - 1, 0], [0, 255, 0])],
)
def test_32_bit_tiff_takes_the_smallest_full_scale(values: list[int], expected: list[int]) -> None:
    image = from_array(np.tile(np.array(values, np.int32), (3, 1)))
    assert decode_image(encode(image, "TIFF"), size_px=3)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("odd", [-0.1, 1.01, 1.99, 255.6, 1e9, float("nan"), float("inf")])
def test_floats_without_a_full_scale_are_refused(odd: float) -> None:
    values = np.zeros((4, 4), np.float32)
    values[2, 2] = odd
    assert refusal(encode(from_array(values), "TIFF")).reason == "unsupported"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several_counts(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(flat("red"), kind, save_all=True, append_images=[flat("blue"), flat("lime")], **options)
    assert only_color(data) == (255, 0, 0)
