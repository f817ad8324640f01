"""What a TIFF's tags hold, counted without reading it."""

from __future__ import annotations

import struct

import pytest

from shared.images.tiff_directory import TagData, count_of, measure_tags
from tests.shared.images import bombs
from tests.shared.images.pictures import KINDS, refusal

EMPTY = TagData(0, 0)


def test_values_and_bytes_are_counted() -> None:
    data = bombs.tiff({256: (4, [16]), 258: (3, [8, 8, 8]), 700: (1, b"text")}, [b"\0"])
    assert measure_tags(data) == TagData(values=1 + 3 + 2, data_bytes=4 + 6 + 4 + 8)


def test_directories_below_the_first_count_too_but_no_circle_does() -> None:
    assert measure_tags(bombs.tiff_in_exif(1000)).values > 1000
    circle = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 34665, 4, 1, 8) + bytes(4)
    assert measure_tags(circle) == TagData(1, 4)


def test_a_bigtiff_is_counted() -> None:
    data = b"II+\0\x08\0\0\0" + struct.pack("<QQHHQQ", 16, 1, 282, 5, 70_000, 0) + bytes(8)
    assert measure_tags(data) == TagData(70_000, 560_000)


@pytest.mark.parametrize("data", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II+\0\x08\0\0\0" + b"\xff" * 8])
def test_what_is_not_there_counts_as_nothing(data: bytes) -> None:
    assert measure_tags(data) == EMPTY
    assert count_of(0x0112, data) == 0


def test_a_directory_that_ends_too_early_is_counted_as_far_as_it_goes() -> None:
    data = b"MM\0*\0\0\0\x08" + struct.pack(">HHHII", 65535, 282, 5, 9, 0)
    assert measure_tags(data) == TagData(9, 72)


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
