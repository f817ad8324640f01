"""The cost of decoding, estimated from a file's headers: no file takes longer, and camera files are cheap."""

from __future__ import annotations

import contextlib
import gc
import io
import struct
import time
from collections.abc import Callable

import pytest
from PIL import Image

from shared.errors import BadImage
from shared.images import decode_cost
from shared.images.decode_cost import CHEAP_S, MAX_DECODE_S, check, estimate, is_costly
from shared.images.decoding import MAX_PX, decode_image
from shared.images.formats import sniff
from tests.kit import BOTTLES
from tests.shared.images.pictures import KINDS, bottle, encode, exif, refusal
from torture.corpus import bombs, slow_files

FULL_HD = (1920, 1080)


def seconds(data: bytes) -> float:
    return estimate(data, sniff(data)).seconds


def jpeg_of(width: int, height: int, *, size_bytes: int) -> bytes:
    """A camera's JPEG of this many pixels and bytes. Most of the bytes follow the end of the picture."""
    plain = bombs.jpeg(width, height, quality=95, subsampling=2, exif=exif(6), icc_profile=bytes(3000))
    return plain + bytes(size_bytes - len(plain))


# --- headers that were seen before


@pytest.mark.parametrize("end", [b"\xff\xd9", b"\xff\xda" * 30 + b"\xff\xd9", bytes(100_000)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_header_that_is_known_makes_no_difference(
    options: dict[str, bool], end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode(bottle(*FULL_HD), "JPEG", **options)
    data = first + end
    monkeypatch.setattr(decode_cost, "_KNOWN_HEADERS", decode_cost._KnownHeaders())
    alone = estimate(data, "image/jpeg")
    monkeypatch.setattr(decode_cost, "_KNOWN_HEADERS", decode_cost._KnownHeaders())
    estimate(first, "image/jpeg")
    assert estimate(data, "image/jpeg") == alone


def test_a_file_that_ends_within_its_header_does_not_change_what_others_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_cost, "_KNOWN_HEADERS", decode_cost._KnownHeaders())
    whole = encode(bottle(*FULL_HD), "JPEG", progressive=True)
    expected = estimate(whole, "image/jpeg")
    for size_bytes in range(2, 700):  # the frame's header is within the first 700 bytes
        monkeypatch.setattr(decode_cost, "_KNOWN_HEADERS", decode_cost._KnownHeaders())
        estimate(whole[:size_bytes], "image/jpeg")
        assert estimate(whole, "image/jpeg") == expected, size_bytes


def test_bytes_read_beyond_a_segment_that_is_too_short_are_part_of_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_cost, "_KNOWN_HEADERS", decode_cost._KnownHeaders())

    def short(components: int) -> bytes:  # a frame's header of 2 bytes: its fields are those of the scan
        return b"\xff\xd8\xff\xc2\0\2\xff\xda\0\x08\1" + bytes([components]) + bytes(5000)

    assert seconds(short(1)) < seconds(short(4))


def test_a_bounded_number_of_headers_is_kept_and_no_long_one() -> None:
    known, parts = decode_cost._KnownHeaders(), decode_cost._JpegParts()
    headers = [f"{number:04}".encode() * 100 for number in range(decode_cost._MAX_KNOWN)]
    for header in headers:
        known.add(header, parts)
    assert all(known.find(header + b"pixels") is parts for header in headers)
    known.add(bytes(decode_cost._MAX_KNOWN_BYTES + 1), parts)
    assert known.find(bytes(decode_cost._MAX_KNOWN_BYTES + 1)) is None
    for number in range(10_000):
        known.add(f"{number:08}".encode() * 50, parts)
    assert len(known._known) <= decode_cost._MAX_KNOWN


@pytest.mark.parametrize("size", [(4032, 3024), (3024, 4032)])
def test_a_jpeg_is_not_reduced_if_only_a_small_part_is_used(size: tuple[int, int]) -> None:
    data = jpeg_of(*size, size_bytes=6_000_000)
    assert not is_costly(data, part=0.5)
    assert is_costly(data, part=0.1)


# --- what is cheap


def test_every_bottle_of_the_demo_is_cheap() -> None:
    files = sorted(BOTTLES.glob("*.jpg"))
    assert len(files) > 100
    assert not [file.name for file in files if is_costly(file.read_bytes())]


@pytest.mark.parametrize("name", list(KINDS))
def test_a_small_picture_of_any_kind_is_cheap(name: str) -> None:
    assert not is_costly(KINDS[name])
    assert 0 < seconds(KINDS[name]) < CHEAP_S / 2


def test_a_cameras_jpeg_of_12_megapixels_is_cheap() -> None:
    assert not is_costly(jpeg_of(4032, 3024, size_bytes=6_000_000))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "JPEG"])
def test_full_hd_is_cheap_in_every_format(kind: str) -> None:
    options = {"progressive": True} if kind == "JPEG" else {}
    assert not is_costly(encode(bottle(*FULL_HD), kind, **options))
    assert not is_costly(encode(bottle(*FULL_HD).convert("RGBA"), "PNG"))


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"text", b"\xff\xd8\xff", b"BM" + bytes(12), KINDS["png"][:20]])
def test_what_is_refused_at_once_is_not_costly(data: bytes) -> None:
    assert not is_costly(data)


# --- what is costly


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: bombs.png(6000, 6000, 8, 2), id="png of 36 megapixels"),
        pytest.param(lambda: bombs.webp(3000, 3000), id="webp"),
        pytest.param(lambda: bombs.webp_canvas(3000, 3000), id="webp canvas"),
        pytest.param(lambda: bombs.jpeg(3000, 3000, progressive=True), id="progressive jpeg of 9 megapixels"),
        pytest.param(lambda: bombs.jpeg(7000, 7000), id="jpeg of 49 megapixels"),
        pytest.param(lambda: slow_files.progressive_scans(1500, 400), id="jpeg of 400 scans"),
        pytest.param(lambda: slow_files.fill(1_000_000), id="jpeg fill"),
        pytest.param(lambda: slow_files.exif_fractions(200_000), id="jpeg exif"),
        pytest.param(lambda: slow_files.photoshop(40), id="jpeg photoshop"),
        pytest.param(lambda: slow_files.bmp_rle_lines(1_000_000, 1), id="bmp rle lines"),
        pytest.param(lambda: slow_files.bmp_rle_runs(500, 500_000), id="bmp rle runs"),
        pytest.param(lambda: slow_files.tiff_byte_strips(90_000), id="tiff strips"),
        pytest.param(lambda: slow_files.tiff_tiles(1024, 4_000), id="tiff tiles larger than the picture"),
        pytest.param(lambda: bombs.tiles((100, 100), 2_000, [8], 1), id="tiff tile"),
        pytest.param(lambda: slow_files.png_profiles(100), id="png profiles"),
        pytest.param(
            lambda: bombs.png(16, 16, 8, 2, before=bombs.png_chunk(b"eXIf", slow_files.exif_tags(65_000))),
            id="png exif",
        ),
    ],
)
def test_small_files_of_much_work_are_costly(make: Callable[[], bytes]) -> None:
    data = make()
    assert is_costly(data)
    check(data, sniff(data), max_px=MAX_PX, max_decode_s=MAX_DECODE_S)  # but not refused


@pytest.mark.parametrize("name", [name for name in bombs.kinds(64) if "thin" not in name])
def test_pixels_cost_in_every_kind(name: str) -> None:
    """Except where the codec reduces a JPEG, or a picture is one column."""
    if name == "png one column":
        assert seconds(bombs.kinds(3000)[name]()) > 0.04
    else:
        assert is_costly(bombs.kinds(3000)[name]())


# --- what is refused


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: slow_files.progressive_scans(64, 600), "more than 500 scans"),
        (lambda: slow_files.app_segments(3_000), "more than 2,000 segments"),
        (lambda: slow_files.exif_pieces(3_000), "more than 2,000 segments"),
        (lambda: slow_files.png_chunks(21_000), "more than 20,000 chunks"),
        (lambda: slow_files.png_pieces(21_000), "more than 20,000 chunks"),
        (lambda: slow_files.webp_chunks(21_000), "more than 20,000 chunks"),
    ],
)
def test_counts_have_bounds(make: Callable[[], bytes], what: str) -> None:
    refused = refusal(make())
    assert refused.reason == "unsupported" and what in str(refused)


@pytest.mark.parametrize(
    "make", [lambda: slow_files.bmp_rle_runs(7000, 9_900_000), lambda: slow_files.png_profiles(3_000)]
)
def test_what_would_take_too_long_is_refused_before_it_is_decoded(make: Callable[[], bytes]) -> None:
    refused = refusal(make())
    assert refused.reason == "unsupported"
    assert "limit is 10 (max_decode_s)" in str(refused)


def test_the_limit_is_the_callers() -> None:
    data = bombs.png(3000, 3000, 8, 2)
    with pytest.raises(BadImage, match=r"max_decode_s") as refused:
        decode_image(data, size_px=8, max_decode_s=0.2)
    assert "3,000 x 3,000 pixels" in str(refused.value)
    assert decode_image(data, size_px=8, max_decode_s=1).shape == (8, 8, 3)


def test_the_largest_picture_of_each_kind_is_not_refused() -> None:
    for data in (bombs.png(7071, 7071, 16, 6), bombs.webp(7071, 7071), bombs.jpeg(7071, 7071, progressive=True)):
        check(data, sniff(data), max_px=MAX_PX, max_decode_s=MAX_DECODE_S / 3)


# --- headers that are made to be misread


def test_the_last_of_two_png_headers_counts() -> None:
    """Pillow takes the last one."""
    large = bombs.png_header(6000, 6000)
    assert is_costly(bombs.png(16, 16, 8, 2, before=large))


def test_a_bmp_upside_down_costs_the_same() -> None:
    data = bytearray(slow_files.bmp_rle_lines(1_000_000, 1))
    data[22:26] = struct.pack("<i", -1)
    assert is_costly(bytes(data))


def test_a_jpeg_that_names_its_size_twice_is_read_by_the_last() -> None:
    data = bytearray(bombs.jpeg(7000, 7000))
    at = data.index(b"\xff\xc0")
    frame = bytes(data[at : at + 4 + 15])
    small = frame[:5] + struct.pack(">HH", 8, 8) + frame[9:]
    assert is_costly(bytes(data[:at]) + small + bytes(data[at:]))


def test_scans_in_the_strips_of_a_tiff_count() -> None:
    strip = slow_files.progressive_scans(1000, 400)
    tags = bombs.layout((1000, 1000), [8], 1, compression=7)
    assert seconds(bombs.tiff(tags, [strip])) > 0.09 + seconds(bombs.tiff(tags, [bytes(len(strip))]))


@pytest.mark.parametrize("name", list(KINDS))
def test_a_cut_file_is_read_as_far_as_it_goes(name: str) -> None:
    data = KINDS[name]
    for count in (*range(1, 64), len(data) // 2):
        is_costly(data[:count])


# --- the estimate is right, and takes no time itself


@pytest.fixture(scope="module")
def costly_files() -> dict[str, bytes]:
    """Made before the test that measures runs alone."""
    makers: dict[str, Callable[[], bytes]] = {
        **{name: make for name, make in bombs.kinds(1500).items()},
        "jpeg fill": lambda: slow_files.fill(500_000),
        "jpeg exif": lambda: slow_files.exif_fractions(100_000),
        "jpeg photoshop": lambda: slow_files.photoshop(40),
        "jpeg tables": lambda: slow_files.quantization_tables(40),
        "jpeg scans": lambda: slow_files.progressive_scans(1500, 200),
        "bmp rle lines": lambda: slow_files.bmp_rle_lines(1_000_000, 1),
        "bmp rle runs": lambda: slow_files.bmp_rle_runs(500, 500_000),
        "tiff strips": lambda: slow_files.tiff_byte_strips(40_000),
        "tiff tiles": lambda: slow_files.tiff_tiles(1024, 4_000),
        "png chunks": lambda: slow_files.png_chunks(19_000),
        "png profiles": lambda: slow_files.png_profiles(40),
        "png noise": lambda: slow_files.encoded(slow_files.noise(1000), "PNG"),
        "webp noise": lambda: slow_files.encoded(slow_files.noise(500), "WEBP", quality=100, method=0),
        "jpeg noise": lambda: slow_files.encoded(slow_files.noise(1000), "JPEG", quality=100, subsampling=0),
    }
    return {name: make() for name, make in makers.items()}


@pytest.mark.slow
@pytest.mark.timing
def test_no_file_takes_longer_than_its_estimate(costly_files: dict[str, bytes]) -> None:
    """Processor time of this thread; a core may be three times slower than the one that the rates were measured on.

    What a busy machine adds differs from try to try, so the least of three counts.
    """
    over = []
    for name, data in costly_files.items():
        most_s = 3 * seconds(data) + 0.05
        if all(processor_s(data) > most_s for _ in range(3)):
            over.append(name)
    assert not over


def processor_s(data: bytes) -> float:
    """How long decoding takes. The garbage that other tests have left is not collected meanwhile."""
    gc.disable()
    try:
        started = time.thread_time()
        with contextlib.suppress(BadImage):
            decode_image(data, size_px=224, max_decode_bytes=10**10)
        return time.thread_time() - started
    finally:
        gc.enable()


@pytest.mark.timing
@pytest.mark.parametrize("name", list(slow_files.SLOW))
def test_hostile_files_are_looked_at_for_a_bounded_number_of_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is a segment, a chunk, or a tag: what the walk does in Python."""
    steps = 0

    def counting(function: Callable[..., object]) -> Callable[..., object]:
        def count(*args: object, **options: object) -> object:
            nonlocal steps
            steps += 1
            return function(*args, **options)

        return count

    monkeypatch.setattr(decode_cost, "_check_count", counting(decode_cost._check_count))
    data = slow_files.SLOW[name]() if name != "jpeg 20,000 scans" else slow_files.progressive_scans(500, 20_000)
    started = time.thread_time()
    with contextlib.suppress(BadImage):
        estimate(data, sniff(data))
    assert steps <= 20_001
    assert time.thread_time() - started < 1  # it takes 30 ms


def test_an_empty_picture_costs_nothing() -> None:
    out = io.BytesIO()
    Image.new("L", (1, 1)).save(out, "BMP")
    assert seconds(out.getvalue()) < 0.001
