"""Handles: the options that a user writes after `#`, and what TF-Hub's own names state about their modules.

    ./exported#scaling=-1..1            a network that was saved without its scaling, and takes -1 to 1
    https://…/feature_vector/5#size=192 a module that takes any size, used at 192 px
    http://…/module.tar.gz#sha256=3c5f… an archive that must have this SHA-256

In: a handle as users write it. Out: the bare handle, its HandleOptions, and the PublishedSpec of its name. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from model_store.bundle.manifest import SHA256
from shared.errors import BadSetting
from shared.masking import masked

# The pixel values that a network takes for black..white. TF-Hub's image modules take 0..1. Each network of
# keras.applications takes one of the three, but its file does not state which.
Scaling = Literal["0..1", "-1..1", "0..255"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)
DEFAULT_SCALING: Scaling = "0..1"
DEFAULT_SIZE_PX = 224
MAX_SIZE_PX = 2048

_OPTIONS = re.compile(r"#(?=\w+=)")
# The last part of tfhub.dev's and of Kaggle's addresses:
# …/mobilenet_v2_100_224/feature_vector/5, …/mobilenet-v2/TensorFlow2/100-224-feature-vector/2
_PUBLISHED = re.compile(
    r"/(?P<family>mobilenet_v2|inception_v3)"
    r"(?:[_/]|/tensorflow2/|/frameworks/tensorflow2/variations/)"
    r"(?:(?P<percent>\d{2,3})_(?P<size>\d{2,3})[_/])?"
    r"(?P<kind>feature_vector|classification)(?![a-z])"
)
_SIZES_PX = {"mobilenet_v2": 224, "inception_v3": 299}
_WIDTHS = {"mobilenet_v2": 1280, "inception_v3": 2048}
_IMAGENET_OUTPUTS = 1001  # ImageNet's 1,000 classes, and the background first


@dataclass(frozen=True)
class HandleOptions:
    """The options that the user wrote after `#`; None if the user did not write that option."""

    scaling: Scaling | None = None
    size_px: int | None = None
    sha256: str | None = None  # of the archive, in hexadecimal


NO_OPTIONS = HandleOptions()


@dataclass(frozen=True)
class PublishedSpec:
    """What a published name states about its module, e.g. mobilenet_v2_035_96: 96 px, 1,280 features."""

    name: str
    size_px: int
    outputs: int


def split_options(handle: str) -> tuple[str, HandleOptions]:
    """The handle without its options, and the options.

    A `#` that is not followed by `word=` belongs to the handle, because folder names may contain it.

    Raises:
        BadSetting: an unknown option, or a value that can't be used.
    """
    found = _OPTIONS.search(handle)
    if found is None:
        return handle, NO_OPTIONS
    scaling: Scaling | None = None
    size_px: int | None = None
    sha256: str | None = None
    for option in handle[found.end() :].split("&"):
        name, _, value = option.partition("=")
        if name == "scaling":
            scaling = _scaling(value, handle)
        elif name == "size":
            size_px = _size_px(value, handle)
        elif name == "sha256":
            sha256 = _sha256(value, handle)
        else:
            raise BadSetting(
                f"backbone {masked(handle)!r}: {name!r} is not an option: write #scaling=-1..1, #size=192, #sha256=…, "
                "or several as in #scaling=-1..1&size=192."
            )
    return handle[: found.start()], HandleOptions(scaling, size_px, sha256)


def published_spec(handle: str) -> PublishedSpec | None:
    """What the handle's name states about its module; None if it isn't a known name of TF-Hub or Kaggle."""
    found = _PUBLISHED.search(handle.lower().replace("-", "_"))
    if found is None:
        return None
    family, percent = found["family"], found["percent"]
    if found["kind"] == "classification":
        outputs = _IMAGENET_OUTPUTS
    else:
        # MobileNetV2's last convolution grows with a multiplier above 1 and never shrinks (Sandler et al. 2018,
        # section 5: "for multipliers less than one, we apply width multiplier to all layers except the last").
        outputs = _rounded_to_8(_WIDTHS[family] * max(1.0, int(percent or 100) / 100))
    return PublishedSpec(found[0].strip("/"), int(found["size"] or _SIZES_PX[family]), outputs)


def default_size_px(handle: str) -> int:
    """The size for a module that takes any size and whose handle states none."""
    return 299 if "inception" in handle.lower() else DEFAULT_SIZE_PX


def _rounded_to_8(channels: float) -> int:
    return int(channels + 4) // 8 * 8


def _scaling(value: str, handle: str) -> Scaling:
    for scaling in SCALINGS:
        if value == scaling:
            return scaling
    raise BadSetting(f"backbone {masked(handle)!r}: scaling {value!r} should be one of {', '.join(SCALINGS)}.")


def _sha256(value: str, handle: str) -> str:
    if not SHA256.fullmatch(value.lower()):
        raise BadSetting(f"backbone {masked(handle)!r}: sha256 {value!r} should be 64 hexadecimal digits.")
    return value.lower()


def _size_px(value: str, handle: str) -> int:
    if not (value.isascii() and value.isdigit() and 16 <= int(value) <= MAX_SIZE_PX):
        raise BadSetting(f"backbone {masked(handle)!r}: size {value!r} should be pixels, 16 to {MAX_SIZE_PX}.")
    return int(value)
