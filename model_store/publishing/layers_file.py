"""Tuned layers around a training: those that it starts from, and those that `train --save-layers` writes.

A training whose network was tuned on its own validation images measures itself too well. The notes here say so.
"""

from __future__ import annotations

from pathlib import Path

from model_store.backbones.keras_graphs import open_network
from model_store.backbones.resolve import Backbone, resolve_backbone
from model_store.backbones.sources import layers_of, wheel_of
from model_store.backbones.tuned_layers import SHIPPED, SUFFIX, TunedLayers, read_tuned_layers
from model_store.backbones.wheels import WHEELS
from model_store.bundle.training_digests import count_among, short_digests
from model_store.publishing.train_options import TrainOptions
from model_store.runtime.progress import ProgressSteps
from model_store.training.prepared_data import PreparedData
from model_store.training.transfer import TrainedModel
from shared.errors import BadBackbone, BadSetting
from shared.file_kind import FileKind, kind_of
from shared.home_folder import expand_home
from shared.output_files import check_output_files, unwritable_error

_FLAG = "--save-layers"


def check_save_layers(options: TrainOptions) -> None:
    """Refuse --save-layers where there will be no layers to save, or no place for them. Called before the long work.

    Raises:
        BadSetting: says why.
    """
    path = options.save_layers
    if path is None:
        return
    if path.suffix != SUFFIX:
        raise BadSetting(f"{_FLAG} {path} should end in {SUFFIX}.")
    if options.fine_tune in ("none", "scratch"):
        raise BadSetting(
            f"{_FLAG} {path}: with --fine-tune {options.fine_tune} there are no tuned layers. Use top or all."
        )
    if wheel_of(options.backbone) is None:
        raise BadSetting(
            f"{_FLAG} {path}: layers are saved as what changed in a network of a wheel, but {options.backbone} "
            f"is none. Use one of {', '.join(WHEELS)}."
        )
    replaceable = [_FLAG] if _holds_layers(path) else []
    check_output_files({_FLAG: path}, inputs=_start_files(options.backbone), archive_flags=replaceable)
    if kind_of(path) is FileKind.OTHER:
        raise BadSetting(f"{_FLAG} {path} is no regular file. Name another one.")


def _holds_layers(path: Path) -> bool:
    """Whether the file is there and holds tuned layers, such as those of the last training."""
    try:
        read_tuned_layers(path)
    except BadBackbone:
        return False
    return True


def _start_files(handle: str) -> list[Path]:
    """The file of the layers that the training starts from, if there is one."""
    if layers_of(handle) is None:
        return []
    return [SHIPPED[handle] if handle in SHIPPED else expand_home(handle, name="backbone")]


def resolve_wheel(options: TrainOptions, *, cache: Path, steps: ProgressSteps) -> Backbone | None:
    """The network that the saved layers will be compared with; None if none are to be saved.

    Called before the training, because it may have to be downloaded.

    Raises:
        the errors of `resolve_backbone`.
    """
    wheel = None if options.save_layers is None else wheel_of(options.backbone)
    return None if wheel is None else resolve_backbone(wheel, cache=cache, steps=steps)


def save_layers(
    path: Path,
    wheel: Backbone,
    model: TrainedModel,
    *,
    start: TunedLayers | None,
    data: PreparedData,
    steps: ProgressSteps,
) -> None:
    """Write what differs between the trained network and that of the wheel that it comes from.

    Args:
        path: the file.
        wheel: of `resolve_wheel`.
        model: the trained one.
        start: the layers that the training started from: what tuned them also tuned the new ones.
        data: what was trained on.
        steps: shows the progress.

    Raises:
        BadSetting: the file can't be written.
        BadBackbone: the cached wheel was changed, or the weights are not finite.
    """
    tuned, is_tuned = model.extractor.network, model.plan.fine_tune != "none"
    assert tuned is not None  # a wheel's network is a known one
    with steps.step("Saving the tuned layers"):
        original = open_network(wheel)
        assert original is not None
        images = [data.pictures.digests[row] for row in data.split.train] if is_tuned else []
        layers = TunedLayers.between(
            original.graph.get_weights(),
            tuned.graph.get_weights(),
            wheel=wheel.handle,
            sha256=WHEELS[wheel.handle].sha256,
            tuned_on=short_digests(images, earlier=None if start is None else start.tuned_on),
        )
        try:
            layers.write(path)
        except OSError as error:
            raise unwritable_error(path, error, flag=_FLAG) from error
    if not is_tuned:
        held = f"only the layers of {start.wheel} that the training started from" if start else "no layers"
        steps.print_line(f"{path} has {held}: none were fine-tuned, or fine-tuning was discarded.")


def overlap_notes(handle: str, start: TunedLayers | None, data: PreparedData) -> tuple[str, ...]:
    """Notes about validation and held-out images that tuned the layers which the training started from.

    Args:
        handle: of the backbone, for the note.
        start: its layers.
        data: what is trained on.
    """
    if start is None:
        return ()
    if start.tuned_on is None:
        return (
            f"{handle} does not say which images tuned its layers. If they were among this dataset's validation "
            "images, the metrics are too good.",
        )
    validation = [data.pictures.digests[row] for row in data.split.validation]
    parts = {"validation": validation, "held-out": list(data.held_out.digests)}
    counts = {part: (count_among(digests, start.tuned_on), len(digests)) for part, digests in parts.items()}
    found = " and ".join(f"{seen:,} of the {images:,} {part} images" for part, (seen, images) in counts.items() if seen)
    if not found:
        return ()
    return (
        f"{found} tuned the layers of {handle}, so this version's calibration, thresholds and metrics are too good. "
        "Measure it on images that it has never seen: `sortline evaluate`.",
    )
