"""What a TIFF's tags hold, counted without reading it."""

from __future__ import annotations

import struct

import pytest

from shared.images.tiff_directory import MAX_TAGS, Layout, TagData, count_of, measure_tags, read_layout
from tests.shared.images.pictures import KINDS, refusal
from torture.corpus import bombs, slow_files

EMPTY = TagData(0, 0, 0)


def test_values_and_bytes_are_counted() -> None:
    data = bombs.tiff({256: (4, [16]), 258: (3, [8, 8, 8]), 700: (1, b"text")}, [b"\0"])
    assert measure_tags(data) == TagData(values=1 + 3 + 2, data_bytes=4 + 6 + 4 + 8, tags=5)


def test_directories_below_the_first_count_too_but_no_circle_does() -> None:
    assert measure_tags(bombs.tiff_in_exif(1000)).values > 1000
    circle = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 34665, 4, 1, 8) + bytes(4)
    assert measure_tags(circle) == TagData(1, 4, 1)


def test_a_bigtiff_is_counted() -> None:
    data = b"II+\0\x08\0\0\0" + struct.pack("<QQHHQQ", 16, 1, 282, 5, 70_000, 0) + bytes(8)
    assert measure_tags(data) == TagData(70_000, 560_000, 1)


@pytest.mark.parametrize("data", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II+\0\x08\0\0\0" + b"\xff" * 8])
def test_what_is_not_there_counts_as_nothing(data: bytes) -> None:
    assert measure_tags(data) == EMPTY
    assert count_of(0x0112, data) == 0


def test_a_directory_that_ends_too_early_is_counted_as_far_as_it_goes() -> None:
    data = b"MM\0*\0\0\0\x08" + struct.pack(">HHHII", 65535, 282, 5, 9, 0)
    assert measure_tags(data) == TagData(9, 72, 1)


def test_how_many_values_a_tag_of_exif_has() -> None:
    exif = bombs.exif_of(type_of_tag=5, count=3)
    assert count_of(0x0112, exif) == count_of(0x0112, b"Exif\0\0" + exif) == 3
    assert count_of(0x0113, exif) == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tiff fractions", "unsupported"),
        ("tiff strips", "unsupported"),
        ("tiff exif", "unsupported"),
        ("tiff shared bytes", "corrupt"),
    ],
)
def test_tags_that_would_fill_the_memory_are_refused(name: str, reason: str) -> None:
    refused = refusal(bombs.METADATA[name]())
    assert refused.reason == reason
    assert "tags" in str(refused)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("tiff")])
def test_ordinary_files_hold_few_values(kind: str) -> None:
    found = measure_tags(KINDS[kind])
    assert 5 < found.values < 100 and found.data_bytes < len(KINDS[kind])


def test_offsets_are_counted_one_by_one_even_as_bytes() -> None:
    """Pillow makes a strip of each byte: 2.1 million of them took 8 s."""
    assert measure_tags(slow_files.tiff_byte_strips(5_000)).values > 5_000
    assert refusal(slow_files.tiff_byte_strips(200_000)).reason == "unsupported"


def test_very_many_tags_are_refused_and_not_all_counted() -> None:
    data = slow_files.tiff_tags(60_000)
    assert measure_tags(data).tags == MAX_TAGS + 1
    refused = refusal(data)
    assert refused.reason == "unsupported" and "4,096 tags" in str(refused)


def test_prefixes_of_exif_are_taken_away_as_pillow_does() -> None:
    exif = bombs.exif_of(type_of_tag=5, count=3)
    assert count_of(0x0112, b"Exif\0\0" * 2 + exif) == 3
    assert count_of(0x0112, b"Exif\0\0" * 3 + exif) == 0
    assert count_of(0x0112, b"Exif\0\0" * 3_000_000) == 0  # removing them one by one would copy the data as many times


def test_the_layout_of_strips_and_of_tiles() -> None:
    strips = bombs.tiff(bombs.layout((100, 50), [8] * 3, 2, t278=[16]), [b"\0"] * 4)
    assert read_layout(strips) == Layout(100, 50, 24, 3, 8, 100, 16)
    assert (read_layout(strips).chunks, read_layout(strips).coded_px) == (4, 100 * 64)
    tiles = read_layout(bombs.tiles((100, 50), 64, [16], 1))
    assert (tiles.chunks, tiles.chunk_px, tiles.coded_px) == (2, 64 * 64, 2 * 64 * 64)


def test_the_layout_of_a_big_endian_file() -> None:
    entries = [(256, 3, 1, 7 << 16), (257, 4, 1, 9), (258, 3, 1, 8 << 16), (259, 3, 1, 5 << 16)]
    data = b"MM\0*\0\0\0\x08" + struct.pack(">H", 4) + b"".join(struct.pack(">HHII", *entry) for entry in entries)
    assert read_layout(data) == Layout(7, 9, 8, 1, 5, 7, 9)


@pytest.mark.parametrize("data", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff"])
def test_no_directory_has_no_layout(data: bytes) -> None:
    assert read_layout(data).chunks == read_layout(data).coded_px == 0
