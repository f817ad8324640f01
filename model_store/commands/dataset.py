"""`sortline models check-dataset`: the audit of a dataset that training starts with, without the training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from model_store.commands.options import DatasetArgument, GoodClassFlag
from shared.cli import JsonFlag, print_json

if TYPE_CHECKING:
    from model_store.datasets.dataset import Dataset
    from model_store.datasets.image_loading import DecodedSamples
    from model_store.runtime.progress import ProgressSteps
    from shared.settings import Settings

# Larger than the thumbnails that the audit compares, and small enough to decode quickly.
_SIZE_PX = 128


def check_dataset(
    dataset: DatasetArgument,
    mode: Annotated[
        Literal["single", "multi"] | None,
        typer.Option(help="as for train (default: multi if any image has several labels)"),
    ] = None,
    good_class: GoodClassFlag = None,
    cache_dir: Annotated[
        Path | None, typer.Option("--cache-dir", help="folder for images that don't fit into memory")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a dataset: images per class, unreadable files, duplicates, labels that contradict each other.

    Says how the folder is read too: splits (train, valid, test), names that are merged, files that are left out.

    Also finds copies that were re-encoded, resized, slightly relit, mirrored or turned. The exit code is 1 if the
    dataset can't be trained on.

    Example: sortline models check-dataset producer/bottles
    """
    from model_store.datasets.audit import audit_dataset
    from model_store.datasets.dataset import check_trainable, load_dataset, training_mode
    from model_store.runtime.progress import show_progress
    from shared.settings import load_settings
    from shared.tables import plain_console

    settings = load_settings(cache_dir=cache_dir)
    data = load_dataset(dataset, good_class=good_class)
    chosen = training_mode(data, mode)
    with show_progress() as steps:
        decoded, decoded_held_out = _decode(data, settings, steps)
        report = audit_dataset(data, decoded, held_out=decoded_held_out, mode=chosen, steps=steps)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        report.show(plain_console())
    trainable = [sample for sample in decoded.samples if sample.name not in set(report.excluded)]
    check_trainable(data, trainable, chosen)


def _decode(data: Dataset, settings: Settings, steps: ProgressSteps) -> tuple[DecodedSamples, DecodedSamples]:
    """The images that may be trained on, and those that are held out."""
    from model_store.datasets.image_loading import DecodeSettings, decode_samples

    with steps.step("Reading the images", total=len(data.samples)) as on_progress:
        usable, held_out = (
            decode_samples(
                data.files,
                [sample for sample in data.samples if sample.held_out is is_held_out],
                size_px=_SIZE_PX,
                decode_settings=DecodeSettings.of(settings),
                on_progress=on_progress,
                scratch=settings.cache_path,
            )
            for is_held_out in (False, True)
        )
    return usable, held_out
