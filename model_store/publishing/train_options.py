"""The options of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model_store.backbones.resolve import DEFAULT_HANDLE
from model_store.bundle.policy import Mode
from model_store.training.plan import CropChoice, FineTuneChoice
from shared.images.crop_regions import Region


@dataclass(frozen=True)
class TrainOptions:
    """What the user chose. `mode` None: `multi` if any image has several labels. `good_class` is read as `good`."""

    name: str = "bottles"
    mode: Mode | None = None
    backbone: str = DEFAULT_HANDLE
    epochs: int = 25
    fine_tune: FineTuneChoice = "auto"
    crop: CropChoice = "auto"
    objective: str = "f1"
    regions: Mapping[str, Region] = field(default_factory=dict)  # by camera, `*` for all others
    seed: int = 123
    learning_rate: float | None = None  # of the fine-tuned layers, else of the head; None: the default
    batch_size: int | None = None  # None: the default
    good_class: str | None = None
    promote: bool = True
    save_layers: Path | None = None  # where to write the fine-tuned layers, to start later trainings from
    insecure_http: bool = False  # take a backbone from an http:// URL without a digest
