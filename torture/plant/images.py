"""The images that the torture sends. All differ, so that no worker answers one from its cache of results."""

from __future__ import annotations

import io
import random
import struct
import zlib

from PIL import Image

# The torture's workers look for these in an image's last bytes before they decode it: see worker_program.MarkedDecoder.
MARKS = {
    "abort": b"sortline-torture:abort",  # ends the process, as a crash in native code does
    "hang": b"sortline-torture:hang",  # never returns
}
SIZE_PX = 96
# The size that the header of a "huge" file claims: far above what a worker accepts.
HUGE_PX = 200_000


class ImageMaker:
    """Makes JPEG files of a few KB, of noise that depends on the seed."""

    def __init__(self, seed: int) -> None:
        noise = random.Random(seed).randbytes(SIZE_PX * SIZE_PX * 3)  # noqa: S311 - not cryptography
        file = io.BytesIO()
        Image.frombytes("RGB", (SIZE_PX, SIZE_PX), noise).save(file, "JPEG", quality=50)
        self._jpeg = file.getvalue()
        self._tag = random.Random().randbytes(8)  # noqa: S311 - two makers of one seed make different files
        self._count = 0

    def make(self, mark: str | None = None) -> bytes:
        """One JPEG file that differs from all others in the bytes after the picture, which are not decoded."""
        self._count += 1
        return self._jpeg + self._tag + self._count.to_bytes(8, "big") + (MARKS[mark] if mark else b"")


def bad_images() -> dict[str, bytes]:
    """Files that begin like images, so that they are accepted from a producer, but can't be decoded. By kind."""
    jpeg, png = io.BytesIO(), io.BytesIO()
    picture = Image.new("RGB", (SIZE_PX, SIZE_PX), "green")
    picture.save(jpeg, "JPEG")
    picture.save(png, "PNG")
    whole = jpeg.getvalue()
    return {
        "truncated": whole[: len(whole) // 2],
        "empty": whole[: whole.index(b"\xff\xda")] + b"\xff\xd9",  # no picture between the header and the end
        "huge": _claiming(png.getvalue(), HUGE_PX),
    }


def _claiming(png: bytes, side_px: int) -> bytes:
    """The PNG file, with another width and height in its header."""
    header = b"IHDR" + struct.pack(">II", side_px, side_px) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
