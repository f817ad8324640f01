"""The one decoder, for training and for serving: image bytes in, uint8 RGB of the model's size out.

JPEG, PNG, WebP, BMP and TIFF are recognized by their first bytes, never by a file name. How each kind is treated:

    shape         as `fit` says; training treats its images the same way:
                  stretch: squashed to the square
                  pad: kept, to half a pixel, with at least one pixel per side. The longer side fills the square, the
                  shorter one is centered (with an odd remainder, one pixel more after it than before), and the rest
                  repeats the picture's outermost rows or columns: black bars would be taken for things on the belt
    orientation   EXIF's is applied; a picture whose EXIF can't be read counts as upright
    region        cut out of the upright picture before it is fitted, to fractions of a pixel
    several frames  the first one is used (APNG, animated WebP, TIFF pages, MPO)
    transparency  (alpha, palette entry or color key) composed over white
    palette, 1 bit  the palette's colors; black and white
    white is zero   (TIFF) inverted
    CMYK          JPEG with Adobe's marker is stored inverted, any other is not; RGB = (1 - CMY)(1 - K)
    16 bits       the upper eight of the bits that each sample uses, often 10 or 12; `sample_bits` finds out how many,
                  and refuses a picture for which that is unclear
    float, 32 bits  full scale is the smallest of 1 (floats only), 255, what `sample_bits` finds, and 2^31 - 1 (integers
                  only) that holds every value, up to rounding; a picture with a value below 0, above full scale or not
                  a number is refused, and so are floats whose largest is above 1 but below 2
    color profile  ignored: values are taken as sRGB

Pillow decodes. Plain JPEGs, as cameras send them, are decoded faster by `jpeg`, with the same pixels and refusals.

A picture of which the file lacks rows is refused, if the codec (`jpeg`) or the frame (`missing_rows`) shows it. A JPEG
that lacks only its end mark is accepted. JPEG has no checksum: if the codec conceals other damage inside a complete
file, it can't be noticed here. For a damaged TIFF, libtiff may write a line to standard error.

Memory: `limits` estimates from the header how much an image will take, and all threads together use no more than
`max_decode_bytes` at a time (`decode_memory`). An image that would take more than that by itself is refused.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import (  # these plugins register themselves; otherwise Image.open would import all 40, in any thread
    BmpImagePlugin,  # noqa: F401
    Image,
    ImageChops,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from shared.errors import BadImage
from shared.images import decode_cost
from shared.images import limits as limits
from shared.images.arrays import Pixels
from shared.images.crop_regions import Fit, Region
from shared.images.damage import check_png, lacks_data, undecodable
from shared.images.decode_cost import MAX_DECODE_S
from shared.images.decode_memory import DECODE_MEMORY, MAX_DECODE_BYTES, drop_locals
from shared.images.fitting import Box, fitted_size, in_pixels, min_size, stored_sides
from shared.images.formats import FORMATS, sniff
from shared.images.jpeg import JpegHeader, MissingData, decode_reduced, read_header, reduced_size, reduction
from shared.images.missing_rows import check_rows
from shared.images.modes import full_scale_of, to_resizable
from shared.images.sample_tags import mend_palette, open_more_tiffs, source_of

open_more_tiffs()  # once for the process and at import, like Pillow's plugins: whoever opens a frame gets the same

MAX_BYTES = 20_000_000
MAX_PX = 50_000_000


# Pillow's BILINEAR is a triangle filter whose width grows with the scale, so it does not alias.
_FILTER = Image.Resampling.BILINEAR
# A frame that is more than twice this factor too large is first reduced by a whole factor, with a box filter.
_REDUCING_GAP = 2.0
_BACKDROP = (255, 255, 255, 255)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEGS = ("JPEG", "MPO")
_EXIF_ORIENTATION = 0x0112
_PILLOW_MODULES = r"PIL\."


def decode_image(
    data: bytes,
    *,
    size_px: int,
    region: Region | None = None,
    fit: Fit = "stretch",
    max_bytes: int = MAX_BYTES,
    max_px: int = MAX_PX,
    max_decode_bytes: int = MAX_DECODE_BYTES,
    max_decode_s: float = MAX_DECODE_S,
    sample_bits: int = 0,
    on_sample_bits: Callable[[int], None] | None = None,
) -> Pixels:
    """Decode an image to uint8 [size_px, size_px, 3], RGB, C-contiguous, by the rules at the top of this file.

    `region` is the part of the upright picture to keep; None keeps all of it. `fit` says how that part becomes a
    square. `sample_bits` is the number of bits that the samples of 16-bit files use; 0 means what each file says.
    `on_sample_bits` is called for a picture of more than 8 bits per sample, with the number of bits that its samples
    use by the rules of `sample_bits`; not if these were not needed (floats from 0 to 1), or if all samples are zero.

    May be called from many threads: the codec and the resizing run without the interpreter lock. A large image
    waits until it fits into `max_decode_bytes` beside the others that this process is decoding. An image that according
    to its headers would take more than `max_decode_s` of processor time is refused; `decoder_process` also enforces
    that limit while it decodes.

    Raises:
        BadImage: the bytes are not a usable image. `reason` is one of `empty`, `format`, `too_large_bytes`,
            `too_large_px`, `truncated`, `corrupt`, `unsupported`.
    """
    out = np.empty((size_px, size_px, 3), np.uint8)
    decode_into(
        data,
        out,
        region=region,
        fit=fit,
        max_bytes=max_bytes,
        max_px=max_px,
        max_decode_bytes=max_decode_bytes,
        max_decode_s=max_decode_s,
        sample_bits=sample_bits,
        on_sample_bits=on_sample_bits,
    )
    return out


def decode_into(
    data: bytes,
    out: Pixels,
    *,
    region: Region | None = None,
    fit: Fit = "stretch",
    max_bytes: int = MAX_BYTES,
    max_px: int = MAX_PX,
    max_decode_bytes: int = MAX_DECODE_BYTES,
    max_decode_s: float = MAX_DECODE_S,
    sample_bits: int = 0,
    on_sample_bits: Callable[[int], None] | None = None,
) -> None:
    """Decode like `decode_image`, but into `out`, uint8 [S, S, 3], e.g. one row of a batch.

    If this raises, the content of `out` is undefined: a small JPEG is decoded straight into it.
    """
    size_px = out.shape[0]
    if out.shape != (size_px, size_px, 3) or out.dtype != np.uint8:
        raise ValueError(f"out must be uint8 [S, S, 3], not {out.dtype} {list(out.shape)}")
    content_type = check_file(data, max_bytes=max_bytes, max_px=max_px, max_decode_s=max_decode_s)
    _silence_pillow_warnings()
    options = _DecodeOptions(region, fit, max_px, max_decode_bytes, sample_bits, on_sample_bits)
    try:
        if content_type == "image/jpeg" and _decode_plain_jpeg(data, out, options):
            return
    except MissingData:
        raise lacks_data(data, content_type) from None
    if content_type == "image/png":
        check_png(data)
    try:
        _decode_by_pillow(data, out, content_type, options)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too_large_px", f"the limit is {max_px:,} pixels (max_image_px): {error}") from error
    except Exception as error:  # for hostile bytes Pillow raises nearly anything, AttributeError and KeyError too
        raise undecodable(data, content_type, error=error) from error


def check_file(data: bytes, *, max_bytes: int, max_px: int, max_decode_s: float) -> str:
    """Check a file's first bytes, length and headers before it is decoded; returns its content type.

    Raises:
        BadImage: `empty`, `format`, `too_large_bytes`, `too_large_px`, `corrupt`, or `unsupported`, e.g. because
            decoding would take too long.
    """
    content_type = sniff(data)
    limits.check_length(len(data), max_bytes=max_bytes)
    limits.check_before_opening(data, content_type)
    decode_cost.check(data, content_type, max_px=max_px, max_decode_s=max_decode_s)
    return content_type


class _DecodeOptions(NamedTuple):
    """How to treat an image, and the limits on its size."""

    region: Region | None
    fit: Fit
    max_px: int
    max_decode_bytes: int
    sample_bits: int
    on_sample_bits: Callable[[int], None] | None


class _Opened(NamedTuple):
    """A frame that Pillow has opened, its file, the width there, and the frame's area if the codec scales it."""

    frame: Image.Image
    data: bytes
    stored_width: int
    box: Box | None


def _decode_by_pillow(data: bytes, out: Pixels, content_type: str, options: _DecodeOptions) -> None:
    """Fill `out` by the rules at the top of this file. May raise any exception."""
    with contextlib.ExitStack() as memory:
        try:
            _load_by_pillow(data, out, content_type, options, memory)
        except Exception as error:
            drop_locals(error)
            raise


def _load_by_pillow(
    data: bytes, out: Pixels, content_type: str, options: _DecodeOptions, memory: contextlib.ExitStack
) -> None:
    """Fill `out`. A separate function, so that its images are freed when it returns, before `memory` is released."""
    with Image.open(io.BytesIO(data), formats=[FORMATS[content_type]]) as frame:
        size = frame.size
        limits.check_size(size, max_px=options.max_px)
        box = _scale_in_codec(frame, len(out), options) if frame.format in _JPEGS else None
        needed_bytes = limits.decoded_bytes(frame, data, stored_size=size, max_px=options.max_px)
        what = f"this {FORMATS[content_type]} of {size[0]} x {size[1]} pixels"
        limits.check_memory(needed_bytes, max_decode_bytes=options.max_decode_bytes, what=what)
        memory.enter_context(DECODE_MEMORY.hold(needed_bytes, limit_bytes=options.max_decode_bytes))
        _fill(out, _to_fitted_rgb(_Opened(frame, data, size[0], box), len(out), options))


def _decode_plain_jpeg(data: bytes, out: Pixels, options: _DecodeOptions) -> bool:
    """Fill `out` exactly as Pillow would, but faster. Returns False if Pillow must decode or refuse the image."""
    header = read_header(data)
    if header is None or header.width_px * header.height_px > options.max_px:
        return False
    try:
        turn = _turn_in_metadata(data) if header.has_metadata else None
    except Exception:  # Pillow can't open it, and will say why
        return False
    plan = _jpeg_plan((header.width_px, header.height_px), turn, options.region, len(out), options.fit)
    needed_bytes = limits.jpeg_bytes(header, by=plan.by, file_bytes=len(data))
    if needed_bytes > options.max_decode_bytes:
        return False
    with DECODE_MEMORY.hold(needed_bytes, limit_bytes=options.max_decode_bytes):
        return _decode_planned_jpeg(data, out, header, plan, turn)


def _decode_planned_jpeg(
    data: bytes, out: Pixels, header: JpegHeader, plan: _JpegPlan, turn: Image.Transpose | None
) -> bool:
    width, height = plan.size
    straight = plan.is_final and turn is None and not header.is_gray and width == len(out) and out.flags.c_contiguous
    top = (len(out) - height) // 2
    pixels = decode_reduced(data, header, by=plan.by, out=out[top : top + height] if straight else None)
    if pixels is None:
        return False
    if straight:
        _repeat_border(out, top=top, left=0, bottom=top + height, right=width)
        return True
    image = Image.frombytes("L" if header.is_gray else "RGB", (pixels.shape[1], pixels.shape[0]), pixels)
    if not plan.is_final:
        image = image.resize(plan.size, _FILTER, box=plan.part, reducing_gap=_REDUCING_GAP)
    _fill(out, _to_rgb(image if turn is None else image.transpose(turn), inverted=False))
    return True


class _JpegPlan(NamedTuple):
    """How to decode a JPEG of one size: the codec's reduction, the part of the reduced picture, and the final size."""

    by: int
    part: Box
    size: tuple[int, int]
    is_final: bool  # the codec's output needs no resizing


@functools.lru_cache(maxsize=256)  # cameras have few sizes and regions; a miss costs microseconds
def _jpeg_plan(
    size: tuple[int, int], turn: Image.Transpose | None, region: Region | None, size_px: int, fit: Fit
) -> _JpegPlan:
    sides = stored_sides(turn, region)
    by = reduction(size, least=min_size(size, sides, size_px, fit))
    part = in_pixels((size[0] / by, size[1] / by), sides)
    fitted = fitted_size(part, size_px, fit)
    return _JpegPlan(by, part, fitted, is_final=region is None and fitted == reduced_size(size, by))


def _turn_in_metadata(data: bytes) -> Image.Transpose | None:
    """How Pillow would turn this file upright. May raise any exception if Pillow can't open it."""
    with Image.open(io.BytesIO(data), formats=[FORMATS["image/jpeg"]]) as frame:
        return _turn(frame)


def _fill(out: Pixels, image: Image.Image) -> None:
    """Put an RGB image in the middle of `out` [S, S, 3], and repeat its outermost rows and columns around it."""
    width, height = image.size
    top, left = (len(out) - height) // 2, (len(out) - width) // 2
    bottom, right = top + height, left + width
    out[top:bottom, left:right] = np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, 3)
    _repeat_border(out, top=top, left=left, bottom=bottom, right=right)


def _repeat_border(out: Pixels, *, top: int, left: int, bottom: int, right: int) -> None:
    """Fill the part of `out` outside these columns and rows with the nearest pixel inside them."""
    if right - left < len(out):
        out[top:bottom, :left], out[top:bottom, right:] = out[top:bottom, left, None], out[top:bottom, right - 1, None]
    if bottom - top < len(out):
        out[:top], out[bottom:] = out[top], out[bottom - 1]


def _to_fitted_rgb(opened: _Opened, size_px: int, options: _DecodeOptions) -> Image.Image:
    """The upright RGB image in the size of `fitted_size`."""
    frame, box = opened.frame, opened.box
    source = source_of(frame, opened.data, setting_bits=options.sample_bits)
    frame.load()  # must come first: a PNG's transparency and orientation may follow its pixels
    check_rows(frame, opened.data, stored_width=opened.stored_width)
    mend_palette(frame)
    full_scale = full_scale_of(frame, source)
    if full_scale.used_bits is not None and options.on_sample_bits is not None:
        options.on_sample_bits(full_scale.used_bits)
    turn = _turn(frame)
    part = in_pixels(box[2:] if box else frame.size, stored_sides(turn, options.region))
    size = fitted_size(part, size_px, options.fit)
    resized = frame.size != size or part != (0, 0, *size)
    image = to_resizable(frame, premultiplied=resized, white=full_scale.white, is_negative=source.is_negative)
    if resized:
        image = image.resize(size, _FILTER, box=part, reducing_gap=_REDUCING_GAP)
    # Resize first, then turn and convert the small image. Resizing commutes with turning, because `size` is the size of
    # the picture as it is stored, and with converting.
    if turn is not None:
        image = image.transpose(turn)
    return _to_rgb(image, inverted=frame.format in _JPEGS and "adobe" not in frame.info)


def _scale_in_codec(frame: Image.Image, size_px: int, options: _DecodeOptions) -> Box | None:
    """Let the codec decode a JPEG at 1/2, 1/4 or 1/8 size, which is faster, if the region keeps its fitted size.

    Returns the exact area of the whole frame in the codec's output, in pixels; None if the codec can't scale it.
    """
    sides = stored_sides(_turn(frame), options.region)
    drafted = frame.draft(None, min_size(frame.size, sides, size_px, options.fit))
    return drafted[1] if drafted else None


def _to_rgb(image: Image.Image, *, inverted: bool) -> Image.Image:
    if image.mode == "RGBa":
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        backdrop = Image.new("RGBA", image.size, _BACKDROP)
        backdrop.alpha_composite(image)
        image = backdrop
    elif image.mode == "CMYK" and inverted:  # Pillow inverted it as if Adobe's marker were there
        image = ImageChops.invert(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _turn(frame: Image.Image) -> Image.Transpose | None:
    """How to turn the loaded frame upright; works for a JPEG before it is loaded.

    Pillow turns a TIFF while loading it, and removes the tag; a PNG's orientation may follow its pixels.
    """
    try:
        if not limits.has_one_orientation(frame, tag=_EXIF_ORIENTATION):
            return None
        return _TURNS.get(frame.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF does not affect the pixels
        return None


def _silence_pillow_warnings() -> None:
    """Suppress Pillow's warnings about odd metadata and large images on standard error: we have our own limits.

    Warning filters belong to the process, not to a thread, so one permanent filter is safe, unlike `catch_warnings` in
    each call. It covers only warnings raised in Pillow's own modules.
    """
    if not warnings.filters or getattr(warnings.filters[0][3], "pattern", None) != _PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)
