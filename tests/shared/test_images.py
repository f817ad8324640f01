"""The decoder: what it accepts, what becomes of each kind of pixel, and that nothing but BadImage escapes."""

from __future__ import annotations

import io
import struct
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from shared.errors import BadImage
from shared.images import MAX_BYTES, decode_image, decode_into, sniff
from tests.conftest import BOTTLES

SIZE_PX = 32


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bottle(width: int = 96, height: int = 64) -> Image.Image:
    """A real frame; not square and not symmetric, so that turns and swaps show."""
    with Image.open(BOTTLES / "bottles_000.jpg") as frame:
        return frame.convert("RGB").resize((width, height))


def flat(color: Any, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, color)


def from_array(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values)


def plain(image: Image.Image, size_px: int) -> np.ndarray:
    """The reference: everything decoded, then resized in one step."""
    return np.asarray(image.convert("RGB").resize((size_px, size_px), Image.Resampling.BILINEAR)).astype(int)


def only_color(data: bytes) -> tuple[int, ...]:
    pixels = decode_image(data, size_px=4)
    assert (pixels == pixels[0, 0]).all()
    return tuple(pixels[0, 0].tolist())


def refusal(data: bytes, **limits: int) -> BadImage:
    with pytest.raises(BadImage) as caught:
        decode_image(data, size_px=SIZE_PX, **limits)
    return caught.value


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def every_kind() -> dict[str, bytes]:
    """Valid files of every kind that is accepted, small enough to fuzz."""
    rgb = bottle()
    grey = rgb.convert("L")
    return {
        "jpeg": encode(rgb, "JPEG"),
        "jpeg-progressive": encode(rgb, "JPEG", progressive=True),
        "jpeg-exif": encode(rgb, "JPEG", exif=exif(6)),
        "jpeg-grey": encode(grey, "JPEG"),
        "jpeg-cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "mpo": encode(rgb, "MPO", save_all=True, append_images=[bottle().rotate(180)]),
        "png": encode(rgb, "PNG"),
        "png-palette": encode(rgb.quantize(16), "PNG", transparency=3),
        "png-alpha": encode(rgb.convert("RGBA"), "PNG", exif=exif(3)),
        "png-16": encode(from_array(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "apng": encode(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        "webp": encode(rgb, "WEBP"),
        "webp-lossless": encode(rgb.convert("RGBA"), "WEBP", lossless=True),
        "webp-animated": encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)]),
        "bmp": encode(rgb, "BMP"),
        "bmp-palette": encode(rgb.quantize(16), "BMP"),
        "tiff": encode(rgb, "TIFF"),
        "tiff-lzw": encode(rgb, "TIFF", compression="tiff_lzw", exif=exif(6)),
        "tiff-jpeg": encode(rgb, "TIFF", compression="jpeg"),
        "tiff-fax": encode(rgb.convert("1"), "TIFF", compression="group4"),
        "tiff-float": encode(from_array(np.asarray(grey).astype(np.float32) / 255), "TIFF"),
        "tiff-pages": encode(bottle(), "TIFF", save_all=True, append_images=[rgb.rotate(180)]),
    }


KINDS = every_kind()

# --- signatures


@pytest.mark.parametrize("kind", KINDS)
def test_sniff_names_the_content_type(kind: str) -> None:
    family = {"mpo": "jpeg", "apng": "png"}.get(kind, kind.split("-")[0])
    assert sniff(KINDS[kind]) == f"image/{family}"


@pytest.mark.parametrize(
    ("data", "looks"),
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
def test_strangers_are_refused_by_name(data: bytes, looks: str) -> None:
    with pytest.raises(BadImage, match=looks) as caught:
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


def test_decode_into_leaves_the_row_of_a_broken_image_alone() -> None:
    row = np.full((SIZE_PX, SIZE_PX, 3), 7, np.uint8)
    with pytest.raises(BadImage):
        decode_into(KINDS["jpeg"][:-200], row)
    assert (row == 7).all()


@pytest.mark.parametrize("out", [np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_decode_into_wants_a_square_of_bytes(out: Any) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[S, S, 3\]"):
        decode_into(KINDS["jpeg"], out)


# --- the JPEG decoder's own scaling


@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (1920, 1080), (449, 1801)])
def test_scaling_in_the_codec_stays_near_a_plain_resize(size: tuple[int, int]) -> None:
    data = encode(bottle(*size), "JPEG", quality=88)
    with Image.open(io.BytesIO(data)) as whole:
        difference = np.abs(decode_image(data, size_px=224) - plain(whole, 224))
    assert difference.mean() < 1.0  # of 255; measured 0.3 to 0.6 on noisy frames
    assert np.percentile(difference, 99) <= 4


def test_scaling_in_the_codec_is_used_for_large_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def note_size(self: ImageFile.ImageFile) -> Any:
        loaded.append(self.size)
        return load(self)

    data = encode(bottle(1920, 1080), "JPEG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", note_size)
    decode_image(data, size_px=224)
    assert set(loaded) == {(480, 270)}


# --- pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = Image.new("RGB", (64, 64), "black")
    upright.paste((255, 0, 0), (0, 0, 32, 32))
    upright.paste((0, 255, 0), (32, 0, 64, 32))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose that stores a picture that is so oriented
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    pixels = decode_image(encode(stored, kind, exif=exif(orientation)), size_px=16)
    for row, column, color in [(3, 3, (255, 0, 0)), (3, 12, (0, 255, 0)), (12, 3, (0, 0, 0)), (12, 12, (0, 0, 0))]:
        assert np.abs(pixels[row, column].astype(int) - color).max() < 30, (orientation, row, column)


def test_unreadable_exif_counts_as_upright() -> None:
    data = encode(bottle(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert np.array_equal(decode_image(data, size_px=SIZE_PX), decode_image(KINDS["jpeg"], size_px=SIZE_PX))


@pytest.mark.parametrize(
    ("data", "color"),
    [
        pytest.param(encode(flat(90, "L"), "PNG"), (90, 90, 90), id="grey"),
        pytest.param(encode(flat(90, "L"), "TIFF"), (90, 90, 90), id="grey TIFF"),
        pytest.param(encode(flat(1, "1"), "PNG"), (255, 255, 255), id="1 bit"),
        pytest.param(encode(flat(0, "1"), "BMP"), (0, 0, 0), id="1 bit BMP"),
        pytest.param(encode(flat((10, 20, 30)).quantize(4), "PNG"), (10, 20, 30), id="palette"),
        pytest.param(encode(flat((10, 20, 30, 0), "RGBA"), "PNG"), (255, 255, 255), id="clear is white"),
        pytest.param(encode(flat((10, 20, 30, 255), "RGBA"), "PNG"), (10, 20, 30), id="opaque"),
        pytest.param(encode(flat((0, 100, 200, 51), "RGBA"), "PNG"), (204, 224, 244), id="a fifth over white"),
        pytest.param(encode(flat((0, 51), "LA"), "PNG"), (204, 204, 204), id="grey with alpha"),
        pytest.param(encode(flat((9, 8, 7)), "PNG", transparency=(9, 8, 7)), (255, 255, 255), id="colour key"),
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
@pytest.mark.parametrize(("value", "grey"), [(0, 0), (0x00FF, 0), (0x8000, 128), (0xFFFF, 255)])
def test_16_bit_grey_keeps_the_upper_eight(kind: str, value: int, grey: int) -> None:
    assert only_color(encode(from_array(np.full((8, 8), value, np.uint16)), kind)) == (grey,) * 3


def test_16_bit_big_endian_tiff() -> None:
    data = encode(Image.frombytes("I;16B", (8, 8), b"\x80\x01" * 64), "TIFF")
    assert only_color(data) == (128, 128, 128)


def test_16_bit_rgb_png_keeps_the_upper_eight() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = (b"\0" + b"\x0a\xff\x14\xff\x1e\xff" * 4) * 4
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert only_color(data) == (10, 20, 30)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 25700.0, 65535.0], [0, 100, 255]),
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


@pytest.mark.parametrize("odd", [-0.1, 1e9, float("nan"), float("inf")])
def test_floats_without_a_full_scale_are_refused(odd: float) -> None:
    values = np.zeros((4, 4), np.float32)
    values[2, 2] = odd
    assert refusal(encode(from_array(values), "TIFF")).reason == "unsupported"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several_counts(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(flat("red"), kind, save_all=True, append_images=[flat("blue"), flat("lime")], **options)
    assert only_color(data) == (255, 0, 0)


# --- refusals


def test_limits_are_named() -> None:
    data = KINDS["jpeg"]
    assert decode_image(data, size_px=4, max_bytes=len(data), max_px=96 * 64).shape == (4, 4, 3)
    too_long = refusal(data, max_bytes=len(data) - 1)
    assert too_long.reason == "too_large_bytes"
    assert f"{len(data):,}" in str(too_long) and f"{len(data) - 1:,}" in str(too_long)
    too_wide = refusal(data, max_px=96 * 64 - 1)
    assert too_wide.reason == "too_large_px"
    assert "96 x 64" in str(too_wide) and "6,143" in str(too_wide)
    assert refusal(data + bytes(MAX_BYTES)).reason == "too_large_bytes"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no data."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + KINDS["png"][33:]


@pytest.mark.parametrize("side_px", [8_000, 10_000, 60_000])  # under and over both of Pillow's own bounds
def test_bombs_are_refused_before_decoding_and_without_pillows_warning(side_px: int) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        refused = refusal(png_header(side_px, side_px))
    assert refused.reason == "too_large_px"
    assert "50,000,000" in str(refused)
    assert not warned


@pytest.mark.parametrize(("width", "height"), [(0, 8), (8, 0), (0, 0)])
def test_zero_sized_images_are_corrupt(width: int, height: int) -> None:
    assert refusal(png_header(width, height)).reason == "corrupt"


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("mpo", "tiff-pages")])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    data = KINDS[kind]
    refused = refusal(data[: max(32, int(len(data) * share))])
    # Of TIFF's many layouts, some show the missing end only as damage.
    assert refused.reason == "truncated" or (kind.startswith("tiff") and refused.reason == "corrupt")


def test_a_png_without_its_end_is_truncated() -> None:
    assert refusal(KINDS["png"][:-12]).reason == "truncated"  # every pixel is there, IEND is not


def test_load_truncated_images_stays_off() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x89PNG\r\n\x1a\n" + KINDS["jpeg"][8:] + b"IEND", id="PNG signature on a JPEG"),
        pytest.param(b"\xff\xd8\xff" + KINDS["png"][3:] + b"\xff\xd9", id="JPEG signature on a PNG"),
        pytest.param(KINDS["png"][:200] + b"\0" * 50 + KINDS["png"][250:], id="hole in the data"),
        pytest.param(b"\xff\xd8\xff\xd9", id="JPEG of nothing"),
        pytest.param(b"II*\0\x08\0\0\0" + bytes(40), id="TIFF without tags"),
        pytest.param(b"RIFF\x10\0\0\0WEBPVP8 " + bytes(40), id="WebP without a frame"),
    ],
)
def test_lying_and_damaged_files_are_corrupt(data: bytes) -> None:
    refused = refusal(data)
    assert refused.reason == "corrupt"
    assert "0x" not in str(refused)  # no addresses: equal files give equal messages


def test_a_bmp_that_claims_more_rows_than_it_has_is_truncated() -> None:
    data = bytearray(KINDS["bmp"])
    data[22:26] = struct.pack("<i", 640)
    assert refusal(bytes(data)).reason == "truncated"


def test_corrupt_metadata_does_not_warn() -> None:
    data = KINDS["jpeg-exif"].replace(b"\x01\x12\x00\x03\x00\x00\x00\x01", b"\x01\x12\x00\x02\x00\xff\xff\xff")
    assert data != KINDS["jpeg-exif"]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        decode_image(data, size_px=SIZE_PX)
    assert not warned


# --- threads and arbitrary bytes


def test_threads_get_the_same_pixels() -> None:
    files = list(KINDS.values()) * 8
    alone = [decode_image(data, size_px=SIZE_PX) for data in KINDS.values()] * 8
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda data: decode_image(data, size_px=SIZE_PX), files))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


def test_decoding_lets_other_threads_run() -> None:
    data = encode(bottle(1920, 1080), "JPEG")
    started = threading.Event()
    decoded: list[np.ndarray] = []

    def decode_many() -> None:
        started.set()
        for _ in range(40):
            decoded.append(decode_image(data, size_px=SIZE_PX))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # from here on a thread runs until it lets go of the interpreter by itself
    try:
        thread = threading.Thread(target=decode_many)
        thread.start()
        started.wait()
        seen = len(decoded)
    finally:
        sys.setswitchinterval(before)
    thread.join()
    assert seen < 40


def outcome(data: bytes) -> np.ndarray | None:
    """The pixels, or None for a BadImage; anything else escapes and fails the test."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            pixels = decode_image(data, size_px=8, max_px=1_000_000)
        except BadImage as error:
            assert error.reason in {
                "corrupt",
                "empty",
                "format",
                "too_large_bytes",
                "too_large_px",
                "truncated",
                "unsupported",
            }
            return None
        finally:
            assert not warned
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    return pixels


def edits() -> st.SearchStrategy[list[tuple[float, bytes, int]]]:
    """Places (as a share of the file), bytes to put there, and how many to take away."""
    place = st.one_of(st.floats(0, 0.1), st.floats(0, 1))  # headers get half of it
    return st.lists(st.tuples(place, st.binary(max_size=6), st.integers(0, 8)), min_size=1, max_size=6)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(sorted(KINDS)), edits=edits())
def test_mutated_files_decode_or_raise_bad_image(kind: str, edits: list[tuple[float, bytes, int]]) -> None:
    data = bytearray(KINDS[kind])
    for share, added, taken in edits:
        at = int(share * len(data))
        data[at : at + taken] = added
    outcome(bytes(data))


@settings(max_examples=300, deadline=None)
@given(head=st.sampled_from(sorted({data[:20] for data in KINDS.values()} | {b""})), tail=st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_raise_bad_image(head: bytes, tail: bytes) -> None:
    outcome(head + tail)
