"""Pictures by name, and whole ones by their bytes."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from producer.sources.picture_files import is_picture, is_side_file, is_system_folder, looks_whole


@pytest.mark.parametrize("name", ["a.jpg", "A.JPEG", "a.b.png", "2026/11/a.tif", "a.webp", "a.bmp", "a.gif", "a.heic"])
def test_pictures(name: str) -> None:
    assert is_picture(name)
    assert not is_side_file(name)


@pytest.mark.parametrize(
    "name",
    [
        *("a.xml", "a.txt", "a.JSON", "a.csv", "a.jpg.md5", "Thumbs.db", "desktop.ini", ".DS_Store", "._a.jpg"),
        *("2026/.a.jpg", "a.jpg~", "a.jpg.part", "a.tmp", "a.jpg.filepart", "a.jpg.crdownload", "a.jpg.upload"),
    ],
)
def test_side_files(name: str) -> None:
    assert not is_picture(name)
    assert is_side_file(name)


@pytest.mark.parametrize("name", ["a", "a.0001", "a.mp4", "jpg"])
def test_what_is_neither(name: str) -> None:
    assert not is_picture(name)
    assert not is_side_file(name)


def test_system_folders() -> None:
    assert all(is_system_folder(name) for name in (".git", "a/@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found"))
    assert not any(is_system_folder(name) for name in ("2026", "a/26", "#1"))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"with_thumbnail": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
    ],
)
def test_a_picture_looks_whole_and_its_beginning_does_not(kind: str, options: dict[str, bool]) -> None:
    whole = encoded(kind, **options)
    assert looks_whole(whole)
    if kind != "TIFF":  # its directory may be at the front
        assert not any(looks_whole(whole[: len(whole) * part // 10]) for part in range(4, 10))
        assert not looks_whole(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)) or kind in (
            "WEBP",
            "BMP",
        )
    assert not looks_whole(bytes(len(whole)))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"RIFF", b"BM", b"II*\0", b"II+\0", b"\x89PNG", b"text"])
def test_an_unfinished_picture_does_not_look_whole(data: bytes) -> None:
    assert not looks_whole(data)


def test_a_jpeg_with_data_after_its_end_looks_whole() -> None:
    assert looks_whole(encoded("JPEG") + b"<meta exposure='3'/>")


def encoded(kind: str, *, with_thumbnail: bool = False, **options: bool) -> bytes:
    image = Image.effect_noise((64, 48), 60).convert("RGB")
    if with_thumbnail:  # in the header, a JPEG of its own
        options["exif"] = b"Exif\0\0" + encoded("JPEG")  # type: ignore[assignment]
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()
