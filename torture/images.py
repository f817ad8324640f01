"""The images that the torture sends. Each is different, so that no worker remembers the answer of another."""

from __future__ import annotations

import io
import random
import struct
import zlib

from PIL import Image

# Worker programs of the torture look for these in an image's last bytes, before they decode it: see `marked_decoder`.
MARKS = {
    "abort": b"sortline-torture:abort",  # ends the process, as a crash in native code does
    "hang": b"sortline-torture:hang",  # never returns
}
SIZE_PX = 96
# In the header of the file that claims to be huge: far above what a worker accepts.
HUGE_PX = 200_000


class ImageMaker:
    """Makes JPEG files of a few KB, from a picture that its seed draws."""

    def __init__(self, seed: int) -> None:
        noise = random.Random(seed).randbytes(SIZE_PX * SIZE_PX * 3)  # noqa: S311 - not cryptography
        file = io.BytesIO()
        Image.frombytes("RGB", (SIZE_PX, SIZE_PX), noise).save(file, "JPEG", quality=50)
        self._jpeg = file.getvalue()
        self._tag = random.Random().randbytes(8)  # noqa: S311 - so that a feeder's successor sends other images
        self._count = 0

    def make(self, mark: str | None = None) -> bytes:
        """One JPEG file, different from all others: what follows the end of the picture is not decoded."""
        self._count += 1
        return self._jpeg + self._tag + self._count.to_bytes(8, "big") + (MARKS[mark] if mark else b"")


def bad_images() -> dict[str, bytes]:
    """Files that begin as images do, and so are accepted from the producer, but can't be sorted."""
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
    """The PNG file with another width and height in its header."""
    header = b"IHDR" + struct.pack(">II", side_px, side_px) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
