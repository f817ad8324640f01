"""Files of a few KB that take hundreds of MB to decode, made on the spot, and small ones of every kind like them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from shared.images.decode_cost import PNG_SAMPLES

Tags = Mapping[int, tuple[int, Sequence[int] | bytes]]

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
_CODES = {1: "B", 3: "H", 4: "I"}
_DEFLATE = 8
_PALETTE = bytes(768)
_MOST_REAL_PX = 10_000_000


def zeros(row_bytes: int, rows: int) -> bytes:
    """Rows of zeros, compressed by zlib to a thousandth of their length, without holding the rows in memory."""
    packer, out = zlib.compressobj(1), []
    block = bytes(1 << 20)
    whole, rest = divmod(row_bytes * rows, len(block))
    out += [packer.compress(block) for _ in range(whole)]
    return b"".join([*out, packer.compress(block[:rest]), packer.flush()])


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", png_chunk(b"IEND", b"")


def png_header(width: int, height: int, *, depth: int = 8, color: int = 2, last: bytes = b"\0\0\0") -> bytes:
    """IHDR: `color` is 0 gray, 2 RGB, 3 palette, 4 gray with alpha, 6 RGBA; `last` compression, filter, interlacing."""
    return png_chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, color) + last)


def png_pixels(rows: bytes, *, pieces: int = 1) -> bytes:
    """These rows in one IDAT chunk or several."""
    packed = zlib.compress(rows)
    step = -(-len(packed) // pieces)
    return b"".join(png_chunk(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step))


def png(
    width: int, height: int, depth: int, color: int, *, interlace: int = 0, before: bytes = b"", after: bytes = b""
) -> bytes:
    """`color` as in `png_header`. The chunks lie around the pixels."""
    bits = depth * PNG_SAMPLES[color]
    rows = zeros(1 + (width * bits + 7) // 8, height) if not interlace else zeros(9 + width * bits // 8, 2 * height)
    palette = png_chunk(b"PLTE", _PALETTE) if color == 3 else b""
    header = png_header(width, height, depth=depth, color=color, last=bytes([0, 0, interlace]))
    pixels = png_chunk(b"IDAT", rows)
    return PNG_START + header + palette + before + pixels + after + PNG_END


def apng(side: int) -> bytes:
    def control(number: int, width: int) -> bytes:
        return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, width, 0, 0, 1, 1, 0, 0))

    second = control(1, 1) + png_chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(bytes(5)))
    return png(side, side, 8, 6, before=png_chunk(b"acTL", struct.pack(">II", 2, 0)) + control(0, side), after=second)


def png_text(chunks: int) -> bytes:
    """Chunks of text of 1 MB each. One character is not in Unicode's first plane, so Python takes 4 bytes for each."""
    text = zlib.compress(("\U0001f600" + "a" * 1_000_000).encode())
    before = b"".join(png_chunk(b"iTXt", b"k%d\0\1\0\0\0" % number + text) for number in range(chunks))
    return png(16, 16, 8, 2, before=before)


def webp_pixels(width: int, height: int, *, alpha: int = 0) -> bytes:
    """A lossless picture of one color: five codes of one symbol each."""
    fields = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (alpha, 1), (0, 6), *[(1, 4)] * 5]
    bits = at = 0
    for value, count in fields:
        bits |= value << at
        at += count
    return bits.to_bytes((at + 7) // 8, "little")


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _three_bytes(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


def webp(width: int, height: int, *, alpha: int = 0) -> bytes:
    return riff((b"VP8L", webp_pixels(width, height, alpha=alpha)))


def webp_canvas(width: int, height: int) -> bytes:
    """An animation on a large canvas, of frames of one pixel."""
    one = riff((b"VP8L", webp_pixels(1, 1)))[12:]
    frame = _three_bytes(0) * 4 + _three_bytes(100) + b"\0" + one
    head = bytes([0x12, 0, 0, 0]) + _three_bytes(width - 1) + _three_bytes(height - 1)
    return riff((b"VP8X", head), (b"ANIM", bytes(6)), (b"ANMF", frame), (b"ANMF", frame))


def webp_exif(exif: bytes) -> bytes:
    head = bytes([8, 0, 0, 0]) + _three_bytes(15) * 2
    return riff((b"VP8X", head), (b"VP8L", webp_pixels(16, 16)), (b"EXIF", exif))


def tiff(
    tags: Tags, blocks: Sequence[bytes] = (), *, tail: bytes = b"", tiled: bool = False, order: str = "<"
) -> bytes:
    """A TIFF of these tags, (type, values or their bytes) by number, and strips or tiles. `tail` precedes its end."""
    out, places = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4)), []
    for block in blocks:
        places.append(len(out))
        out += block
    data, lengths = (324, 325) if tiled else (273, 279)
    all_tags = {data: (4, places), lengths: (4, [len(block) for block in blocks]), **tags}
    entries = []
    for number, (kind, values) in sorted(all_tags.items()):
        raw = values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values)
        place = raw.ljust(4, b"\0")
        if len(raw) > 4:
            place = struct.pack(order + "I", len(out))
            out += raw
        entries.append(struct.pack(order + "HHI", number, kind, len(raw) // _SIZES[kind]) + place)
    out += tail
    out[4:8] = struct.pack(order + "I", len(out))
    return bytes(out) + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)


def layout(
    size: tuple[int, int], bits: Sequence[int], photometric: int, *, compression: int = _DEFLATE, **numbers: list[int]
) -> dict[int, tuple[int, Sequence[int]]]:
    """The tags of a picture; `numbers` are more of them, `t338` for tag 338."""
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [size[0]]),
        257: (4, [size[1]]),
        258: (3, bits),
        259: (3, [compression]),
        262: (3, [photometric]),
        277: (3, [len(bits)]),
        278: (4, [size[1]]),
    }
    more = {int(name[1:]): values for name, values in numbers.items()}
    return tags | {tag: (4 if tag > 300 or max(values) > 65_535 else 3, values) for tag, values in more.items()}


def strips(size: tuple[int, int], bits: Sequence[int], photometric: int, *, rows: int = 16, **numbers: Any) -> bytes:
    """A TIFF of zeros in strips, all the same."""
    strip = zeros((size[0] * sum(bits) + 7) // 8, rows)
    return tiff(layout(size, bits, photometric, t278=[rows], **numbers), [strip] * -(-size[1] // rows))


def tiles(size: tuple[int, int], tile: int, bits: Sequence[int], photometric: int, **numbers: Any) -> bytes:
    """A TIFF of zeros in one tile of that side."""
    tags = layout(size, bits, photometric, t322=[tile], t323=[tile], **numbers)
    return tiff(tags, [zeros(tile * sum(bits) // 8, tile)], tiled=True)


def jpeg(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """A black JPEG. If it is large, its header claims more pixels than it has data for, which takes no time to make."""
    out = io.BytesIO()
    size = (width, height) if width * height <= _MOST_REAL_PX else (64, 64)
    Image.new(mode, size).save(out, "JPEG", **options)
    data, at = bytearray(out.getvalue()), 2
    while data[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_rle(side: int) -> bytes:
    row = b"".join(bytes([min(255, side - at), 0]) for at in range(0, side, 255)) + b"\0\0"
    data, before = row * side + b"\0\1", 14 + 40 + 1024
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", before + len(data), 0, 0, before) + head + bytes(1024) + data


def exif_of(*, type_of_tag: int, count: int, tag: int = 0x0112) -> bytes:
    """EXIF of one tag that holds `count` zeros of 8 bytes."""
    head = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, tag, type_of_tag, count, 26)
    return head + bytes(4) + bytes(8 * count)


def tiff_in_exif(count: int) -> bytes:
    """A TIFF whose EXIF directory holds a tag of `count` fractions."""
    fractions = bytes(8 * count)
    directory = struct.pack("<HHHII", 1, 0x9201, 5, count, 8 + 256) + bytes(4)
    tags = {**layout((16, 16), [8], 1, compression=1), 34665: (4, [8 + 256 + len(fractions)])}
    return tiff(tags, [bytes(256), fractions + directory])


TRNS, EXIF_6 = png_chunk(b"tRNS", b"\0\0"), b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0" + bytes(4)


def kinds(side: int) -> dict[str, Callable[[], bytes]]:
    """Every kind of file that is costly to decode for its length, with pictures of side x side pixels."""
    size, total = (side, side), side * side
    return {
        "webp": lambda: webp(side, side),
        "webp alpha": lambda: webp(side, side, alpha=1),
        "webp canvas": lambda: webp_canvas(side, side),
        "png gray": lambda: png(side, side, 8, 0),
        "png 1 bit, transparent": lambda: png(side, side, 1, 0, before=TRNS),
        "png transparency after the pixels": lambda: png(side, side, 8, 0, after=TRNS),
        "png gray 16": lambda: png(side, side, 16, 0),
        "png RGB": lambda: png(side, side, 8, 2),
        "png RGB, key": lambda: png(side, side, 8, 2, before=png_chunk(b"tRNS", bytes(6))),
        "png palette": lambda: png(side, side, 8, 3),
        "png palette, transparent": lambda: png(side, side, 8, 3, before=png_chunk(b"tRNS", bytes(256))),
        "png gray alpha": lambda: png(side, side, 8, 4),
        "png RGBA 16": lambda: png(side, side, 16, 6),
        "png RGBA interlaced": lambda: png(side, side, 8, 6, interlace=1),
        "png RGBA turned": lambda: png(side, side, 8, 6, before=png_chunk(b"eXIf", EXIF_6)),
        "png one row": lambda: png(total, 1, 16, 6),
        "png one column": lambda: png(1, total // 8, 8, 6),
        "apng": lambda: apng(side),
        "jpeg progressive": lambda: jpeg(side, side, progressive=True, subsampling=0),
        "jpeg progressive CMYK": lambda: jpeg(side, side, "CMYK", progressive=True),
        "jpeg progressive, thin": lambda: jpeg(65500, max(1, total // 65500), progressive=True, subsampling=0),
        "jpeg thin": lambda: jpeg(65500, max(1, total // 65500)),
        "bmp rle": lambda: bmp_rle(side),
        "tiff float": lambda: strips(size, [32], 1, t339=[3]),
        "tiff float, one strip": lambda: strips(size, [32], 1, rows=side, t339=[3]),
        "tiff int": lambda: strips(size, [32], 1, t339=[2]),
        "tiff gray 16": lambda: strips(size, [16], 1),
        "tiff RGB 16, one strip": lambda: strips(size, [16] * 3, 2, rows=side),
        "tiff RGBA 16": lambda: strips(size, [16] * 4, 2, t338=[2]),
        "tiff premultiplied": lambda: strips(size, [8] * 4, 2, t338=[1]),
        "tiff CMYK 16": lambda: strips(size, [16] * 4, 5),
        "tiff LAB": lambda: strips(size, [8] * 3, 8),
        "tiff YCbCr, one strip": lambda: strips(size, [8] * 3, 6, rows=side),
        "tiff turned": lambda: strips(size, [8] * 3, 2, rows=side, t274=[6]),
        "tiff fax, one row": lambda: tiff(layout((total, 1), [1], 1, compression=4), [b"\xff" * 100]),
        "tiff tile": lambda: tiles((100, 100), side // 16 * 16, [16] * 4, 2, t338=[2]),
        "tiff jpeg": lambda: tiff(
            layout(size, [8] * 3, 6, compression=7, t530=[2, 2]), [jpeg(side, side, progressive=True)]
        ),
    }


# Costs that the picture's size doesn't show: tags and text that are unpacked at opening, tiles that are never shown.
METADATA: dict[str, Callable[[], bytes]] = {
    "webp exif": lambda: webp_exif(exif_of(type_of_tag=5, count=2_000_000)),
    "png exif": lambda: png(16, 16, 8, 2, before=png_chunk(b"eXIf", exif_of(type_of_tag=5, count=2_000_000))),
    "png text": lambda: png_text(60),
    "tiff fractions": lambda: tiff({**layout((16, 16), [8], 1), 282: (5, bytes(16_000_000))}, [zeros(16, 16)]),
    "tiff strips": lambda: tiff({**layout((16, 16), [8], 1), 273: (4, bytes(16_000_000))}, [zeros(16, 16)]),
    "tiff exif": lambda: tiff_in_exif(2_000_000),
    "tiff shared bytes": lambda: _shared_bytes(tags=100, size_bytes=10_000_000),
    "tiff tile 44000": lambda: tiles((1000, 1000), 44_000, [8], 1),
}


def _shared_bytes(*, tags: int, size_bytes: int) -> bytes:
    """Many tags, each of which holds the same bytes."""
    data = bytearray(tiff({**layout((16, 16), [8], 1), **{60_000 + n: (1, b"12345") for n in range(tags)}}, [b"\0"]))
    at = struct.unpack("<I", data[4:8])[0] + 2
    for entry in range(at, len(data) - 4, 12):
        if struct.unpack_from("<H", data, entry)[0] >= 60_000:
            struct.pack_into("<II", data, entry + 4, size_bytes, 8)
    return bytes(data) + bytes(size_bytes)
