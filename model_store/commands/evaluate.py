"""`sortline evaluate`."""

from __future__ import annotations

from model_store.commands.options import (
    DatasetArgument,
    EngineFlag,
    GoodClassFlag,
    HeldOutFlag,
    ModelFlag,
    StoreFlag,
    load_labeled,
    open_model,
)
from model_store.commands.output import print_metrics, print_unused
from shared.cli import JsonFlag, print_json
from shared.messages import note


def evaluate(
    dataset: DatasetArgument,
    model: ModelFlag = None,
    engine: EngineFlag = None,
    held_out: HeldOutFlag = False,
    good_class: GoodClassFlag = None,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a published model on a labeled dataset.

    accuracy: share of the images whose most probable class is one of their labels. exact match: share of the images
    with exactly the right labels. macro F1: mean F1 over the classes. ECE: expected calibration error. All labeled
    images are measured, those of `train`, `valid` and `test` folders alike; --held-out measures those of `test`.

    Example: sortline evaluate producer/bottles --held-out --model bottles@3 --json
    """
    from model_store.datasets.image_loading import DecodeSettings
    from model_store.evaluation.evaluate import evaluate_dataset, seen_warning
    from model_store.runtime.progress import show_progress
    from shared.settings import load_settings

    settings = load_settings(model=model, engine=engine, model_store=model_store)
    data = load_labeled(dataset, held_out=held_out, good_class=good_class)
    bundle, runner = open_model(settings)
    data = data.named_like(bundle.manifest.classes)
    with show_progress() as steps:
        metrics = evaluate_dataset(
            data, bundle, runner, max_batch=settings.max_batch, decode_settings=DecodeSettings.of(settings), steps=steps
        )
    if warning := seen_warning(metrics["seen_in_training"], images=metrics["images"]):
        note(f"sortline: {warning}")
    if as_json:
        print_json(metrics)
    else:
        print_unused(metrics["unreadable"], metrics["unlabelled"])
        reference = metrics["model"]
        print_metrics(metrics, title=f"{reference['name']}@{reference['version']} ({reference['engine']})")
