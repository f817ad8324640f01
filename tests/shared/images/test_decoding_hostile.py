"""The decoder under limits, damage, threads and arbitrary bytes: nothing but BadImage escapes, and no warning."""

from __future__ import annotations

import struct
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ImageFile

from shared.errors import BadImage
from shared.images.decoding import MAX_BYTES, decode_image
from tests.shared.images.pictures import KINDS, SIZE_PX, bottle, encode, refusal
from torture.corpus.bombs import PNG_START, png_header

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


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no data."""
    return PNG_START + png_header(width, height) + KINDS["png"][33:]


@pytest.mark.parametrize("side_px", [8_000, 10_000, 60_000])  # under and over both of Pillow's own bounds
def test_bombs_are_refused_before_decoding_and_without_pillows_warning(side_px: int) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        refused = refusal(png_that_claims(side_px, side_px))
    assert refused.reason == "too_large_px"
    assert "50,000,000" in str(refused)
    assert not warned


@pytest.mark.parametrize(("width", "height"), [(0, 8), (8, 0), (0, 0)])
def test_zero_sized_images_are_corrupt(width: int, height: int) -> None:
    assert refusal(png_that_claims(width, height)).reason == "corrupt"


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
    started, through = threading.Event(), threading.Event()
    give_up_at = time.monotonic() + 60
    waited_in_vain: list[bool] = []

    def decode_until_another_is_through() -> None:
        started.set()
        while not through.is_set() and time.monotonic() < give_up_at:
            decode_image(data, size_px=SIZE_PX)
        waited_in_vain.append(not through.is_set())

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # from here on a thread runs until it lets go of the interpreter by itself
    try:
        thread = threading.Thread(target=decode_until_another_is_through)
        thread.start()
        started.wait()
        through.set()
    finally:
        sys.setswitchinterval(before)
    thread.join()
    assert waited_in_vain == [False]


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


@pytest.mark.slow
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
