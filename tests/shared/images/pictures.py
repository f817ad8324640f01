"""Image files of every kind, made on the spot, and what the tests of the decoder ask about them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

import shared.images.jpeg
from shared.errors import BadImage
from shared.images.decoding import decode_image
from tests.kit import BOTTLES

SIZE_PX = 32
# For each EXIF orientation: the Transpose that turns an upright picture into the stored one.
UNDO = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}


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


def codec_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A list that records the width and height of every picture that a codec decodes, Pillow's or ours for JPEG."""
    sizes: list[tuple[int, int]] = []
    load, decode_jpeg = ImageFile.ImageFile.load, shared.images.jpeg.decode_jpeg

    def note_load(self: ImageFile.ImageFile) -> Any:
        sizes.append(self.size)
        return load(self)

    def note_decode(*args: Any, **options: Any) -> np.ndarray:
        pixels = decode_jpeg(*args, **options)
        sizes.append((pixels.shape[1], pixels.shape[0]))
        return pixels

    monkeypatch.setattr(ImageFile.ImageFile, "load", note_load)
    monkeypatch.setattr(shared.images.jpeg, "decode_jpeg", note_decode)
    return sizes


def every_kind() -> dict[str, bytes]:
    """Valid files of every kind that is accepted, small enough to fuzz."""
    rgb = bottle()
    gray = rgb.convert("L")
    return {
        "jpeg": encode(rgb, "JPEG"),
        "jpeg-progressive": encode(rgb, "JPEG", progressive=True),
        "jpeg-exif": encode(rgb, "JPEG", exif=exif(6)),
        "jpeg-gray": encode(gray, "JPEG"),
        "jpeg-cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "mpo": encode(rgb, "MPO", save_all=True, append_images=[bottle().rotate(180)]),
        "png": encode(rgb, "PNG"),
        "png-palette": encode(rgb.quantize(16), "PNG", transparency=3),
        "png-alpha": encode(rgb.convert("RGBA"), "PNG", exif=exif(3)),
        "png-16": encode(from_array(np.asarray(gray).astype(np.uint16) * 257), "PNG"),
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
        "tiff-float": encode(from_array(np.asarray(gray).astype(np.float32) / 255), "TIFF"),
        "tiff-pages": encode(bottle(), "TIFF", save_all=True, append_images=[rgb.rotate(180)]),
    }


KINDS = every_kind()
