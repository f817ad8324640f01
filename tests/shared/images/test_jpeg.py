"""The fast path for plain JPEGs: when it is used, and that its pixels and refusals equal Pillow's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

import shared.images.decoding
import shared.images.jpeg
from shared.errors import BadImage
from shared.images.crop_regions import Fit, Region
from shared.images.decoding import decode_image, decode_into
from shared.images.jpeg import JpegHeader, MissingData, decode_reduced, read_header
from tests.kit import BOTTLES
from tests.shared.images.pictures import KINDS, SIZE_PX, bottle, codec_sizes, encode, exif, from_array

REGION = Region(0.25, 0.125, 0.75, 1)
JFIF = b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
XMP = b'<x:xmpmeta tiff:Orientation="8"/>'


def plain_kinds() -> dict[str, bytes]:
    """Files that take the fast path, by what distinguishes them."""
    rgb = bottle(150, 110)
    gray = rgb.convert("L")
    return {
        "4:4:4": encode(rgb, "JPEG", subsampling=0),
        "4:2:2": encode(rgb, "JPEG", subsampling=1),
        "4:2:0": encode(rgb, "JPEG", subsampling=2),
        "progressive": encode(rgb, "JPEG", progressive=True),
        "restarts": encode(rgb, "JPEG", restart_marker_blocks=2),
        "RGB inside": encode(rgb, "JPEG", keep_rgb=True),
        "gray": encode(gray, "JPEG"),
        "gray, progressive": encode(gray, "JPEG", progressive=True),
        "EXIF": encode(rgb, "JPEG", exif=exif(6)),
        "gray, EXIF": encode(gray, "JPEG", exif=exif(5)),
        "XMP": encode(rgb, "JPEG", xmp=XMP),
        "broken EXIF": encode(rgb, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken"),
        "profile": encode(rgb, "JPEG", icc_profile=bytes(300)),
        "comment": encode(rgb, "JPEG", comment=b"belt 3"),
        "square": encode(bottle(SIZE_PX, SIZE_PX), "JPEG"),
        "one pixel": encode(bottle(1, 1), "JPEG"),
    }


PLAIN = plain_kinds()


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def with_segment(marker: int, body: bytes, data: bytes = PLAIN["4:2:0"]) -> bytes:
    return data[:2] + segment(marker, body) + data[2:]


@contextmanager
def pillow_alone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared.images.decoding, "read_header", lambda _: None)
        yield


def forbid_pillows_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("Pillow decodes it")

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", refuse)


# --- the same pixels


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_kinds_are_decoded_without_pillows_codec(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_pillows_codec(monkeypatch)
    assert decode_image(PLAIN[kind], size_px=SIZE_PX).shape == (SIZE_PX, SIZE_PX, 3)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("region", [None, REGION])
def test_pixels_are_pillows_bit_by_bit(kind: str, fit: Fit, region: Region | None) -> None:
    for size_px in (1, 5, SIZE_PX, 75, 150, 224):  # 150 is the width: decoded straight into its place
        ours = decode_image(PLAIN[kind], size_px=size_px, region=region, fit=fit)
        with pillow_alone():
            assert np.array_equal(ours, decode_image(PLAIN[kind], size_px=size_px, region=region, fit=fit)), size_px


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 3), (7, 7), (15, 9), (16, 16), (17, 31), (639, 479), (640, 480), (2000, 1)]
)
@pytest.mark.parametrize("subsampling", [0, 2])
def test_frames_of_any_size_are_pillows_bit_by_bit(size: tuple[int, int], subsampling: int) -> None:
    data = encode(bottle(*size), "JPEG", subsampling=subsampling)
    fits: tuple[Fit, ...] = ("stretch", "pad")
    for size_px in (1, 3, 8, 80, 112, 320):
        for fit in fits:
            ours = decode_image(data, size_px=size_px, fit=fit)
            with pillow_alone():
                assert np.array_equal(ours, decode_image(data, size_px=size_px, fit=fit)), (size_px, fit)


@pytest.mark.parametrize("side", [3, 5])
def test_frames_too_small_to_name_their_scale_are_pillows_bit_by_bit(side: int) -> None:
    """Noise, to tell two scales apart: by both of them the codec gives 2 x 2 pixels."""
    noise = from_array(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))
    data = encode(noise, "JPEG", quality=95)
    ours = decode_image(data, size_px=1)
    with pillow_alone():
        assert np.array_equal(ours, decode_image(data, size_px=1))


def test_photographs_are_pillows_bit_by_bit() -> None:
    for path in sorted(BOTTLES.glob("*.jpg"))[::8]:
        data = path.read_bytes()
        ours = decode_image(data, size_px=224, fit="pad")
        with pillow_alone():
            assert np.array_equal(ours, decode_image(data, size_px=224, fit="pad")), path.name


def test_an_orientation_in_xmp_counts() -> None:
    """Two thirds of the width is the upright picture's height, as Pillow reads it."""
    turned, plain = (decode_image(PLAIN[kind], size_px=SIZE_PX, fit="pad") for kind in ("XMP", "4:2:0"))
    assert np.array_equal(turned, np.rot90(plain))


# --- straight into its place


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        pytest.param(PLAIN["square"], (0, 32), id="32 x 32"),
        pytest.param(encode(bottle(64, 64), "JPEG"), (0, 32), id="64 x 64"),
        pytest.param(encode(bottle(64, 42), "JPEG"), (5, 26), id="64 x 42"),
        pytest.param(encode(bottle(32, 9), "JPEG"), (11, 20), id="32 x 9"),
    ],
)
def test_a_frame_that_needs_no_resize_is_decoded_into_its_rows(
    data: bytes, rows: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pillow_alone():
        expected = decode_image(data, size_px=SIZE_PX, fit="pad")
    forbid_pillows_codec(monkeypatch)
    monkeypatch.setattr(Image, "frombytes", None)  # a resize goes through it
    batch = np.full((3, SIZE_PX, SIZE_PX, 3), 7, np.uint8)
    decode_into(data, batch[1], fit="pad")
    assert np.array_equal(batch[1], expected)
    top, bottom = rows
    assert (batch[1, :top] == batch[1, top]).all() and (batch[1, bottom:] == batch[1, bottom - 1]).all()
    assert (batch[0] == 7).all() and (batch[2] == 7).all()


def test_a_place_with_gaps_between_its_pixels_is_filled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.full((SIZE_PX, 2 * SIZE_PX, 3), 7, np.uint8)
    expected = decode_image(PLAIN["square"], size_px=SIZE_PX)
    forbid_pillows_codec(monkeypatch)
    decode_into(PLAIN["square"], wide[:, ::2])
    assert np.array_equal(wide[:, ::2], expected)
    assert (wide[:, 1::2] == 7).all()


# --- what is left to Pillow


def test_a_header_is_read() -> None:
    one_scan = {"width_px": 150, "height_px": 110, "has_several_scans": False}
    assert read_header(PLAIN["4:2:0"]) == JpegHeader(**one_scan, is_gray=False, has_metadata=False)
    assert read_header(PLAIN["gray, EXIF"]) == JpegHeader(**one_scan, is_gray=True, has_metadata=True)
    assert read_header(PLAIN["XMP"]) == JpegHeader(**one_scan, is_gray=False, has_metadata=True)


def test_a_header_says_whether_the_codec_keeps_the_whole_image() -> None:
    """A progressive JPEG comes in several scans; so does a baseline one whose first scan lacks some components."""
    baseline = PLAIN["4:2:0"]
    at = baseline.index(b"\xff\xda\0\x0c\3") + 4  # the number of components in the scan
    for data in (KINDS["jpeg-progressive"], baseline[:at] + b"\1" + baseline[at + 1 :]):
        header = read_header(data)
        assert header is not None and header.has_several_scans


def with_frame(at: int, value: int, data: bytes = PLAIN["4:2:0"]) -> bytes:
    """Byte `at` of the frame header changed: 0 its marker, 3 the bits of a sample, 8 the number of components."""
    start = data.index(b"\xff\xc0") + 1
    return data[: start + at] + bytes([value]) + data[start + at + 1 :]


FRAME = PLAIN["4:2:0"][PLAIN["4:2:0"].index(b"\xff\xc0") :][:19]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(KINDS["jpeg-cmyk"], id="CMYK"),
        pytest.param(KINDS["mpo"], id="several pictures"),
        pytest.param(with_frame(0, 0xC9), id="arithmetic coding"),
        pytest.param(with_frame(0, 0xC3), id="lossless"),
        pytest.param(with_frame(3, 12), id="12 bits"),
        pytest.param(with_frame(8, 2), id="two components"),
        pytest.param(with_frame(8, 1), id="fewer components than it lists"),
        pytest.param(with_frame(4, 0, with_frame(5, 0)), id="no rows"),
        pytest.param(PLAIN["4:2:0"].replace(FRAME, FRAME * 2), id="two frame headers"),
        pytest.param(PLAIN["4:2:0"].replace(FRAME, b""), id="no frame header"),
        pytest.param(PLAIN["4:2:0"].replace(FRAME, b"\0" + FRAME), id="a byte between segments"),
        pytest.param(PLAIN["4:2:0"].replace(FRAME, b"\xff" + FRAME), id="a filled marker"),
        pytest.param(with_segment(0xE2, b"MPF\0" + bytes(20)), id="a list of pictures"),
        pytest.param(with_segment(0xE2, b"ICC_PROFILE\0"), id="a profile without its number"),
        pytest.param(with_segment(0xED, b"Photoshop 3.0\x008BIM"), id="Photoshop's, cut"),
        pytest.param(with_segment(0xEE, b"Adobe"), id="Adobe's, cut"),
        pytest.param(PLAIN["4:2:0"].replace(JFIF, segment(0xE0, b"JFIF\0")), id="JFIF, cut"),
        pytest.param(with_segment(0xDC, b"\0\1"), id="number of lines"),
        pytest.param(PLAIN["4:2:0"][:2] + b"\xff\xfe\0\1" + PLAIN["4:2:0"][2:], id="a segment shorter than its length"),
        pytest.param(PLAIN["4:2:0"][:300], id="cut in the header"),
        pytest.param(b"\xff\xd8\xff", id="a signature alone"),
    ],
)
def test_odd_headers_are_left_to_pillow(data: bytes) -> None:
    assert data != PLAIN["4:2:0"]
    assert read_header(data) is None


def test_a_frame_beyond_what_simplejpeg_can_count_is_left_to_pillow() -> None:
    assert read_header(with_frame(4, 0xFF, with_frame(6, 0xFF))) is None  # 65,390 x 65,430


@pytest.mark.parametrize("end", [b"", b"\xff\xd9", bytes(500)])
def test_missing_data_are_not_made_up(end: bytes) -> None:
    cut = PLAIN["4:2:0"][: len(PLAIN["4:2:0"]) // 2] + end
    header = read_header(cut)
    assert header is not None
    with pytest.raises(MissingData):
        decode_reduced(cut, header, by=1)


def test_damage_that_pillow_papers_over_is_decoded_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = PLAIN["4:2:0"][:-2] + bytes(40) + b"\xff\xd9"  # bytes between the last pixels and the end
    header = read_header(data)
    assert header is not None and decode_reduced(data, header, by=1) is None
    given = codec_sizes(monkeypatch)
    assert np.array_equal(decode_image(data, size_px=SIZE_PX), decode_image(PLAIN["4:2:0"], size_px=SIZE_PX))
    assert len(given) >= 2


# --- the same verdicts


def verdict(data: bytes, *, size_px: int, fit: Fit) -> np.ndarray | str:
    try:
        return decode_image(data, size_px=size_px, fit=fit, max_px=1_000_000)
    except BadImage as error:
        return f"{error.reason}: {error}"


def damaged(data: bytes, dice: random.Random) -> bytes:
    """A few bytes changed, taken away or put in, half of them in the header; or cut."""
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        at = dice.randrange(min(len(out), 700) if dice.random() < 0.5 else len(out))
        how = dice.random()
        if how < 0.5:
            out[at] = dice.randrange(256)
        elif how < 0.6:
            out[at : at + 2] = bytes((0xFF, dice.randrange(0xC0, 0x100)))
        elif how < 0.7:
            out[at : at + 4] = b"\xff\xff\xff\xff"
        elif how < 0.8:
            del out[at : at + dice.randint(1, 50)]
        elif how < 0.9:
            out[at:at] = dice.randbytes(dice.randint(1, 30))
        else:
            del out[max(at, 3) :]
    return bytes(out)


@pytest.mark.parametrize("kind", [*PLAIN, "jpeg-cmyk", "mpo"])
def test_damaged_files_get_pillows_verdict(kind: str) -> None:
    """Except for missing data, which Pillow makes up, and for a missing end mark."""
    data = (PLAIN | KINDS)[kind]
    dice = random.Random(kind)  # a seed of its own: the same files in every run
    files = [damaged(data, dice) for _ in range(150)] + [data[:-cut] for cut in range(1, 12)] + [data + data]
    refused = 0
    for number, file in enumerate(files):
        size_px, fit = dice.choice([(SIZE_PX, "stretch"), (SIZE_PX, "pad"), (150, "pad"), (75, "pad")])
        ours = verdict(file, size_px=size_px, fit=fit)
        with pillow_alone():
            pillows = verdict(file, size_px=size_px, fit=fit)
        lacks_data = isinstance(ours, str) and "lacks a part of its picture" in ours
        lacks_its_end = (
            not isinstance(ours, str)
            and isinstance(pillows, str)
            and np.array_equal(ours, verdict(file + b"\xff\xd9", size_px=size_px, fit=fit))
        )
        assert lacks_data or lacks_its_end or np.array_equal(ours, pillows), number
        refused += isinstance(ours, str)
    assert 10 < refused < len(files) - 10


def test_limits_are_pillows_refusals() -> None:
    with pytest.raises(BadImage) as ours:
        decode_image(PLAIN["4:2:0"], size_px=SIZE_PX, max_px=150 * 110 - 1)
    with pillow_alone(), pytest.raises(BadImage) as pillows:
        decode_image(PLAIN["4:2:0"], size_px=SIZE_PX, max_px=150 * 110 - 1)
    assert (ours.value.reason, str(ours.value)) == (pillows.value.reason, str(pillows.value))
    assert ours.value.reason == "too_large_px"
