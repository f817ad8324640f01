"""The one decoder, for training and for serving: image bytes in, uint8 RGB of the model's size out.

JPEG, PNG, WebP, BMP and TIFF, told by their signature, never by a name. What becomes of each kind:

    shape         `fit` says, and the model learns from images treated the same way:
                  stretch: squashed to the square
                  pad: kept, to half a pixel and one pixel at least. The longer side fills the square, the shorter
                  one lies in its middle (one pixel more after it than before, when odd), and the rest repeats the
                  picture's outermost rows or columns: black bars would be taken for things on the belt
    orientation   EXIF's is applied; EXIF that can't be read counts as upright
    region        cut out of the upright picture before it is fitted, to fractions of a pixel
    several frames  the first one (APNG, animated WebP, TIFF pages, MPO)
    transparency  (alpha, palette entry or colour key) composed over white
    palette, 1 bit  their colours; black and white
    CMYK          JPEG with Adobe's marker is stored inverted, any other is not; RGB = (1 - CMY)(1 - K)
    16 bits       the upper eight of each sample
    float, 32 bits  full scale is the smallest of 1 (floats only), 255, 65535 and 2^31 - 1 (integers only) that
                  holds every value; below 0, above that or not a number is refused
    colour profile  ignored: values are taken as sRGB

JPEG has no checksum: damage inside a complete file that the codec papers over can't be noticed here, nor
that a header claims more rows than the data fill. For a damaged TIFF libtiff may write a line to standard error.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import (  # the plugins register themselves: else Image.open imports all 40 formats, in any thread
    BmpImagePlugin,  # noqa: F401
    Image,
    ImageChops,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from shared.errors import BadImage
from shared.formats import FORMATS, sniff
from shared.regions import Fit, Region

MAX_BYTES = 20_000_000
MAX_PX = 50_000_000

Pixels = npt.NDArray[np.uint8]

# Pillow's BILINEAR is a triangle filter as wide as the scale asks, so it does not alias.
_FILTER = Image.Resampling.BILINEAR
# Frames more than twice this factor too large are first reduced by a whole number of pixels (a box filter).
_REDUCING_GAP = 2.0
_BACKDROP = (255, 255, 255, 255)
_FULL_SCALES = {"F": (1, 255, 65535), "I": (255, 65535, 2**31 - 1)}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where a point of the upright picture lies in the stored one, in fractions, by the turn that sets it upright.
_Point = tuple[float, float]
_IN_STORED: dict[Image.Transpose, Callable[[float, float], _Point]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda x, y: (1 - x, y),
    Image.Transpose.ROTATE_180: lambda x, y: (1 - x, 1 - y),
    Image.Transpose.FLIP_TOP_BOTTOM: lambda x, y: (x, 1 - y),
    Image.Transpose.TRANSPOSE: lambda x, y: (y, x),
    Image.Transpose.ROTATE_270: lambda x, y: (y, 1 - x),
    Image.Transpose.TRANSVERSE: lambda x, y: (1 - y, 1 - x),
    Image.Transpose.ROTATE_90: lambda x, y: (1 - y, x),
}
_Box = tuple[float, float, float, float]
_WHOLE: _Box = (0, 0, 1, 1)
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
) -> Pixels:
    """uint8 [size_px, size_px, 3], RGB, C-contiguous, by the rules at the top of this file.

    `region` is the part of the upright picture to keep; None is all of it. `fit` is how that becomes a square.
    May be called from many threads: the codec and the resizing run without the interpreter lock.

    Raises:
        BadImage: not a usable image. `reason` is one of `empty`, `format`, `too_large_bytes`, `too_large_px`,
            `truncated`, `corrupt`, `unsupported`.
    """
    out = np.empty((size_px, size_px, 3), np.uint8)
    decode_into(data, out, region=region, fit=fit, max_bytes=max_bytes, max_px=max_px)
    return out


def decode_into(
    data: bytes,
    out: Pixels,
    *,
    region: Region | None = None,
    fit: Fit = "stretch",
    max_bytes: int = MAX_BYTES,
    max_px: int = MAX_PX,
) -> None:
    """Like `decode_image`, into `out`, uint8 [S, S, 3], e.g. one row of a batch. Untouched when it raises."""
    size_px = out.shape[0]
    if out.shape != (size_px, size_px, 3) or out.dtype != np.uint8:
        raise ValueError(f"out must be uint8 [S, S, 3], not {out.dtype} {list(out.shape)}")
    content_type = sniff(data)
    if len(data) > max_bytes:
        raise BadImage("too_large_bytes", f"{len(data):,} bytes, the limit is {max_bytes:,} (max_image_bytes).")
    if content_type == "image/png" and _is_cut(data, content_type):  # Pillow does not miss the end
        raise _truncated(data, content_type)
    _hush_pillow()
    try:
        with Image.open(io.BytesIO(data), formats=[FORMATS[content_type]]) as frame:
            _check_size(frame, max_px)
            pixels = np.asarray(_to_fitted_rgb(frame, size_px, region, fit))
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too_large_px", f"the limit is {max_px:,} pixels (max_image_px): {error}") from error
    except Exception as error:  # for hostile bytes Pillow raises nearly anything, AttributeError and KeyError too
        raise _undecodable(data, content_type, error=error) from error
    _fill(out, pixels)


def _check_size(frame: Image.Image, max_px: int) -> None:
    width, height = frame.size
    if width < 1 or height < 1:
        raise BadImage("corrupt", f"the header says {width} x {height} pixels.")
    if width * height > max_px:
        raise BadImage(
            "too_large_px",
            f"{width} x {height} = {width * height:,} pixels, the limit is {max_px:,} (max_image_px).",
        )


def _fill(out: Pixels, pixels: Pixels) -> None:
    """Lay `pixels` [H, W, 3] in the middle of `out` [S, S, 3], and repeat their outermost rows and columns."""
    height, width, _ = pixels.shape
    top, left = (len(out) - height) // 2, (len(out) - width) // 2
    bottom, right = top + height, left + width
    out[top:bottom, left:right] = pixels
    out[:, :left], out[:, right:] = out[:, left, None], out[:, right - 1, None]
    out[:top], out[bottom:] = out[top], out[bottom - 1]


def _to_fitted_rgb(frame: Image.Image, size_px: int, region: Region | None, fit: Fit) -> Image.Image:
    """RGB of the size that `_fitted` gives, upright."""
    box = _scale_in_codec(frame, size_px, region, fit) if frame.format in _JPEGS else None
    image = _to_resizable(frame)
    part = _part(box[2:] if box else image.size, _stored(frame, region))
    size = _fitted(part, size_px, fit)
    if image.size != size or region is not None:
        image = image.resize(size, _FILTER, box=part, reducing_gap=_REDUCING_GAP)
    # Turned and converted when small: resizing commutes with both, as the size is that of the stored picture.
    turn = _turn(frame)
    if turn is not None:
        image = image.transpose(turn)
    return _to_rgb(image, inverted=frame.format in _JPEGS and "adobe" not in frame.info)


def _part(size: tuple[float, float], sides: _Box) -> _Box:
    """A part of a picture of this width and height, from fractions to pixels."""
    (width, height), (left, top, right, bottom) = size, sides
    return left * width, top * height, right * width, bottom * height


def _fitted(part: _Box, size_px: int, fit: Fit) -> tuple[int, int]:
    """Width and height of what `part`, in pixels, becomes in a square of `size_px`."""
    if fit == "stretch":
        return size_px, size_px
    left, top, right, bottom = part
    width, height = right - left, bottom - top
    scale = size_px / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _scale_in_codec(frame: Image.Image, size_px: int, region: Region | None, fit: Fit) -> _Box | None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8, a fraction of the cost, where the region keeps its fitted size.

    Returns the exact area of the whole frame in what the codec will give, pixels; None where it can't scale.
    """
    sides = left, top, right, bottom = _stored(frame, region)
    width, height = _fitted(_part(frame.size, sides), size_px, fit)
    drafted = frame.draft(None, (math.ceil(width / (right - left)), math.ceil(height / (bottom - top))))
    return drafted[1] if drafted else None


def _stored(frame: Image.Image, region: Region | None) -> _Box:
    """Left, top, right and bottom of the region in the frame as it is stored, in fractions.

    Right for any kind once it is loaded (a TIFF is turned then, a PNG's orientation may follow its pixels), for a
    JPEG before too.
    """
    if region is None:
        return _WHOLE
    corners = [(region.left, region.top), (region.right, region.bottom)]
    turn = _turn(frame)
    if turn is not None:
        corners = [_IN_STORED[turn](x, y) for x, y in corners]
    (left, right), (top, bottom) = sorted(x for x, _ in corners), sorted(y for _, y in corners)
    return left, top, right, bottom


def _to_resizable(frame: Image.Image) -> Image.Image:
    """The whole frame in a mode that can be interpolated: L, RGB, RGBA or CMYK."""
    frame.load()  # first: a PNG's transparency may follow its pixels
    mode = frame.mode
    if mode in _FULL_SCALES:
        return Image.fromarray(_to_eight_bits(np.asarray(frame), _FULL_SCALES[mode]))
    if mode.startswith("I;16"):
        return Image.fromarray((np.asarray(frame) >> 8).astype(np.uint8))
    if frame.has_transparency_data:
        return frame if mode == "RGBA" else frame.convert("RGBA")
    if mode == "1":
        return frame.convert("L")
    return frame if mode in ("L", "RGB", "CMYK") else frame.convert("RGB")


def _to_eight_bits(values: npt.NDArray[np.generic], full_scales: tuple[int, ...]) -> Pixels:
    """Grey values of any range [H, W] to 0..255, by the first full scale that holds them all."""
    low, high = float(values.min()), float(values.max())
    for full in full_scales:
        if low >= 0 and high <= full:  # false for nan too
            return np.rint(values.astype(np.float64) * (255 / full)).astype(np.uint8)
    raise BadImage("unsupported", f"grey values from {low:g} to {high:g}: send 8 or 16 bits, or floats from 0 to 1.")


def _to_rgb(image: Image.Image, *, inverted: bool) -> Image.Image:
    if image.mode == "RGBA":
        backdrop = Image.new("RGBA", image.size, _BACKDROP)
        backdrop.alpha_composite(image)
        image = backdrop
    elif image.mode == "CMYK" and inverted:  # Pillow turned it as if Adobe's marker were there
        image = ImageChops.invert(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _turn(frame: Image.Image) -> Image.Transpose | None:
    """How to set the loaded frame upright. Pillow has turned a TIFF when loading it, and taken the tag away."""
    try:
        return _TURNS.get(frame.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF does not spoil the pixels
        return None


def _undecodable(data: bytes, content_type: str, *, error: Exception) -> BadImage:
    if "truncated" in str(error) or _is_cut(data, content_type):
        return _truncated(data, content_type)
    # Pillow names an object's address there, and nothing more.
    unread = isinstance(error, UnidentifiedImageError)
    why = "its header can't be read" if unread else f"{type(error).__name__}: {error}"
    return BadImage("corrupt", f"this {FORMATS[content_type]} is damaged or of an unknown variety ({why}).")


def _truncated(data: bytes, content_type: str) -> BadImage:
    what = f"this {FORMATS[content_type]} ends too early, after {len(data):,} bytes"
    return BadImage("truncated", f"{what}: send it when it is completely written.")


def _is_cut(data: bytes, content_type: str) -> bool:
    """Whether the container itself says that something is missing at the end."""
    size_bytes = len(data)
    match content_type:
        case "image/jpeg":
            return b"\xff\xd9" not in data[-1024:]
        case "image/png":
            return data.rfind(b"IEND") < 0
        case "image/webp":
            return int.from_bytes(data[4:8], "little") + 8 > size_bytes
        case "image/bmp":
            return int.from_bytes(data[2:6], "little") > size_bytes
        case _:  # TIFF: the directory, which writers put last, lies past the end
            order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
            big = data[2:4] in (b"+\0", b"\0+")
            return int.from_bytes(data[8:16] if big else data[4:8], order) >= size_bytes


def _hush_pillow() -> None:
    """Keep Pillow's remarks on odd metadata and large images from standard error; our limits speak for us.

    Filters are the process's, not the thread's, so one that stays is safe where `catch_warnings` in each
    call is not. Narrow: only what is warned in Pillow's own modules.
    """
    if not warnings.filters or getattr(warnings.filters[0][3], "pattern", None) != _PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)
