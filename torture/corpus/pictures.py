"""Whole files of every kind that is accepted, small, and the same in every run."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

WIDTH_PX, HEIGHT_PX = 48, 32
_PROFILE = b"\0\0\1\0" + bytes(124)
_ORIENTATION = 0x0112


def picture(width: int = WIDTH_PX, height: int = HEIGHT_PX, *, seed: int = 1) -> Image.Image:
    """A picture of slopes and noise: no two corners are alike, and the last row has no single color."""
    rows, columns = np.mgrid[0:height, 0:width]
    slopes = np.stack(
        [rows * 200 // height, columns * 200 // width, (rows + columns) * 99 // (width + height)], axis=-1
    )
    noise = np.random.default_rng(seed).integers(10, 55, (height, width, 3))
    return Image.fromarray((slopes + noise).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The picture as a file of that kind, by Pillow's name."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    """EXIF with an orientation, 1 to 8."""
    tags = Image.Exif()
    tags[_ORIENTATION] = orientation
    return tags


def _gray_16() -> Image.Image:
    return Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257)


def _float() -> Image.Image:
    return Image.fromarray(np.asarray(picture().convert("L")).astype(np.float32) / 255)


def _turned_jpeg(orientation: int) -> bytes:
    return encoded(picture(), "JPEG", exif=exif(orientation))


def jpegs() -> dict[str, Callable[[], bytes]]:
    """JPEG files, by kind."""
    return {
        "jpeg": lambda: encoded(picture(), "JPEG"),
        "jpeg-444": lambda: encoded(picture(), "JPEG", subsampling=0, quality=95),
        "jpeg-422": lambda: encoded(picture(), "JPEG", subsampling=1),
        "jpeg-progressive": lambda: encoded(picture(), "JPEG", progressive=True),
        "jpeg-restarts": lambda: encoded(picture(), "JPEG", restart_marker_blocks=1),
        "jpeg-gray": lambda: encoded(picture().convert("L"), "JPEG"),
        "jpeg-cmyk": lambda: encoded(picture().convert("CMYK"), "JPEG"),
        "jpeg-rgb": lambda: encoded(picture(), "JPEG", keep_rgb=True),
        "jpeg-profile": lambda: encoded(picture(), "JPEG", icc_profile=_PROFILE),
        "jpeg-comment": lambda: encoded(picture(), "JPEG", comment=b"belt 3"),
        "jpeg-xmp": lambda: encoded(picture(), "JPEG", xmp=b'<x:xmpmeta tiff:Orientation="8"/>'),
        **{f"jpeg-turned-{turn}": functools.partial(_turned_jpeg, turn) for turn in range(1, 9)},
        "mpo": lambda: encoded(picture(), "MPO", save_all=True, append_images=[picture(seed=2)]),
    }


def pngs() -> dict[str, Callable[[], bytes]]:
    """PNG files, by kind."""
    return {
        "png": lambda: encoded(picture(), "PNG"),
        "png-gray": lambda: encoded(picture().convert("L"), "PNG"),
        "png-bilevel": lambda: encoded(picture().convert("1"), "PNG"),
        "png-palette": lambda: encoded(picture().quantize(16), "PNG"),
        "png-palette-transparent": lambda: encoded(picture().quantize(16), "PNG", transparency=3),
        "png-alpha": lambda: encoded(picture().convert("RGBA"), "PNG"),
        "png-gray-alpha": lambda: encoded(picture().convert("LA"), "PNG"),
        "png-16": lambda: encoded(_gray_16(), "PNG"),
        "png-turned": lambda: encoded(picture(), "PNG", exif=exif(3)),
        "png-profile": lambda: encoded(picture(), "PNG", icc_profile=_PROFILE),
        "apng": lambda: encoded(picture(), "PNG", save_all=True, append_images=[picture(seed=2)]),
    }


def others() -> dict[str, Callable[[], bytes]]:
    """WebP, BMP and TIFF files, by kind."""
    return {
        "webp": lambda: encoded(picture(), "WEBP"),
        "webp-lossless": lambda: encoded(picture(), "WEBP", lossless=True),
        "webp-alpha": lambda: encoded(picture().convert("RGBA"), "WEBP", lossless=True),
        "webp-turned": lambda: encoded(picture(), "WEBP", exif=exif(6)),
        "webp-animated": lambda: encoded(picture(), "WEBP", save_all=True, append_images=[picture(seed=2)]),
        "bmp": lambda: encoded(picture(), "BMP"),
        "bmp-gray": lambda: encoded(picture().convert("L"), "BMP"),
        "bmp-palette": lambda: encoded(picture().quantize(16), "BMP"),
        "bmp-bilevel": lambda: encoded(picture().convert("1"), "BMP"),
        "tiff": lambda: encoded(picture(), "TIFF"),
        "tiff-lzw": lambda: encoded(picture(), "TIFF", compression="tiff_lzw"),
        "tiff-deflate": lambda: encoded(picture(), "TIFF", compression="tiff_adobe_deflate"),
        "tiff-packbits": lambda: encoded(picture(), "TIFF", compression="packbits"),
        "tiff-jpeg": lambda: encoded(picture(), "TIFF", compression="jpeg"),
        "tiff-fax": lambda: encoded(picture().convert("1"), "TIFF", compression="group4"),
        "tiff-gray": lambda: encoded(picture().convert("L"), "TIFF"),
        "tiff-cmyk": lambda: encoded(picture().convert("CMYK"), "TIFF"),
        "tiff-16": lambda: encoded(_gray_16(), "TIFF"),
        "tiff-float": lambda: encoded(_float(), "TIFF"),
        "tiff-turned": lambda: encoded(picture(), "TIFF", exif=exif(6)),
        "tiff-pages": lambda: encoded(picture(), "TIFF", save_all=True, append_images=[picture(seed=2)]),
    }


def whole_files() -> dict[str, bytes]:
    """Every kind, by name."""
    return {name: make() for name, make in (jpegs() | pngs() | others()).items()}
