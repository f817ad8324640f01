"""Sources: where backbones come from. A handle of any kind becomes a Source, which can save a SavedModel.

In: a handle. Out: a TF-Hub style SavedModel in a given folder. Called by `resolve` only.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from model_store.backbones.download import check_sha256, download, fetch_module, is_archive
from model_store.backbones.handles import NO_OPTIONS, HandleOptions, split_options
from model_store.backbones.module_saving import save_module, unit_to_signed_unit
from model_store.backbones.tuned_layers import SHIPPED, SUFFIX, TunedLayers, read_shipped_layers, read_tuned_layers
from model_store.backbones.unpacking import SAVED_MODEL_FILE, unpack
from model_store.backbones.wheels import WHEELS, Wheel, save_wheel
from model_store.bundle.files import file_digests
from model_store.runtime.native_output import quiet_native
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import scratch_folder
from model_store.runtime.tensorflow_imports import import_keras
from shared.errors import BadBackbone, BadSetting
from shared.home_folder import expand_home
from shared.masking import masked

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
    """A parsed handle. `identity` changes when the content changes; `save` writes the SavedModel.

    `wheel` is the package that it comes from, if it does; `tuned_by` the name of the file that changed its layers, and
    `layers` its content.
    """

    handle: str
    identity: str
    save: Callable[[Path, ProgressSteps], None]
    options: HandleOptions = NO_OPTIONS
    wheel: Wheel | None = None
    tuned_by: str | None = None
    layers: TunedLayers | None = field(default=None, compare=False)

    @property
    def origin(self) -> str | None:
        """Where the weights come from, for people; None if that is not known."""
        if self.wheel is None:
            return None
        return f"{self.wheel.source}; layers of {self.tuned_by}" if self.tuned_by else self.wheel.source


def source_of(handle: str, *, insecure_http: bool = False) -> Source:
    """The source that `handle` names.

    Raises:
        BadSetting: there is no such kind of handle, the kind has no such name, or the options can't be used. Or it is
            an http:// URL without a digest, and `insecure_http` is false.
    """
    kind, _, name = handle.partition(":")
    if handle in WHEELS:
        return _wheel_source(handle)
    if kind == "keras" and name in _KERAS_NETWORKS:
        return Source(handle, handle, lambda target, steps: _save_keras(name, target, steps))
    if handle in SHIPPED:
        return _tuned_source(handle, SHIPPED[handle], read_shipped_layers(handle))
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
    if not location or kind in ("wheel", "keras", "tuned"):
        raise _unknown(handle)
    return _local_source(handle, expand_home(location, name="backbone"), options)


def classifier_source_of(handle: str, *, insecure_http: bool = False) -> Source:
    """The source of the ready-made classifier that `handle` names.

    Raises:
        BadSetting: as `source_of`; or it names a network without ImageNet's classes.
    """
    if handle in WHEELS and WHEELS[handle].has_classes:
        return _wheel_source(handle, with_classes=True)
    source = source_of(handle, insecure_http=insecure_http)
    if source.wheel is not None or handle.partition(":")[0] == "keras":
        with_classes = ", ".join(name for name, wheel in WHEELS.items() if wheel.has_classes)
        raise BadSetting(
            f"{handle} is a backbone without classes: give {with_classes}, or the TF-Hub URL, .tar.gz or folder of a "
            "classifier."
        )
    return source


def _wheel_source(handle: str, *, with_classes: bool = False) -> Source:
    # To change the identity would invalidate existing caches. Classifiers are cached apart from backbones.
    wheel = WHEELS[handle]
    return Source(
        handle,
        f"{handle} {wheel.sha256}",
        lambda target, steps: save_wheel(handle, target, steps, with_classes=with_classes),
        wheel=wheel,
    )


def wheel_of(handle: str) -> str | None:
    """The handle of the wheel that this handle's network comes from, tuned or not; None if it is from elsewhere.

    Raises:
        the errors of `layers_of`.
    """
    if handle in WHEELS:
        return handle
    layers = layers_of(handle)
    return None if layers is None else layers.wheel


def layers_of(handle: str) -> TunedLayers | None:
    """The tuned layers that this handle names; None if it names something else, of which nothing is read.

    Raises:
        BadBackbone: the file can't be used, or belongs to another release.
        BadSetting: there is no such file.
    """
    if handle not in SHIPPED and not split_options(handle)[0].endswith(SUFFIX):
        return None  # not `source_of`, which reads a whole folder for its digest
    return source_of(handle, insecure_http=True).layers


def _tuned_source(handle: str, path: Path, layers: TunedLayers) -> Source:
    """A wheel's network with the layers of a file, identified by both contents."""
    wheel = WHEELS.get(layers.wheel)
    if wheel is None or wheel.sha256 != layers.sha256:
        raise BadBackbone(
            f"{path} holds layers of {layers.wheel} ({layers.sha256[:12]}), which this release does not have. Make it "
            "again: `sortline train --save-layers`."
        )
    return Source(
        handle,
        f"{layers.digest} {wheel.sha256}",
        lambda target, steps: save_wheel(
            layers.wheel, target, steps, change=lambda network: layers.apply(network, origin=str(path))
        ),
        wheel=wheel,
        tuned_by=path.name,
        layers=layers,
    )


def _local_source(handle: str, path: Path, options: HandleOptions) -> Source:
    """A file or folder, identified by its content, so that a change of the original invalidates the cached copy."""
    if path.is_file() and path.suffix == SUFFIX:
        if options != NO_OPTIONS:
            raise BadSetting(f"backbone {handle!r}: {path} says which network it belongs to. Leave out the options.")
        return _tuned_source(handle, path, read_tuned_layers(path))
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
        f"backbone {masked(handle)!r} is neither {', '.join([*SHIPPED, *WHEELS])}, keras:MobileNetV2, "
        f"keras:InceptionV3, a TF-Hub URL, an existing .tar.gz, an existing folder with a {SAVED_MODEL_FILE}, nor an "
        f"existing {SUFFIX} of tuned layers. Only URLs, .tar.gz and folders take options after #."
    )


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
    save_module(network, target, steps, size_px=spec.size_px, from_unit=unit_to_signed_unit)


def _save_archive(archive: Path, target: Path, steps: ProgressSteps, *, sha256: str | None) -> None:
    check_sha256(archive, sha256, origin=str(archive))
    with steps.step(f"Unpacking {archive}"):
        unpack(archive, target, origin=str(archive))


def _save_folder(folder: Path, target: Path, steps: ProgressSteps) -> None:
    with steps.step(f"Copying {folder}"):
        shutil.copytree(folder, target)
