"""Loads models: verified, warm, and with their decoder. In: a bundle's folder. Out: `Served`, `Model`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from model_store.bundle.files import open_bundle
from model_store.bundle.manifest import Manifest
from model_store.bundle.preprocessing import decoder_of
from model_store.engines.loading import open_engine
from model_store.engines.protocol import Engine
from model_store.registry.store import open_store
from shared.settings import Settings
from worker.models.routing import Model
from worker.state.pixel_buffer import BATCHES_HELD, BatchBuffer
from worker.steps.batch import BatchCost
from worker.steps.decide import Decider
from worker.steps.decode import Decoder


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is loaded, verified and warm, and the decoder for what it is to see."""

    manifest: Manifest
    engine: Engine
    decoder: Decoder


def load_served(settings: Settings) -> Served:
    """Load, verify and warm up the model that the settings name.

    Raises:
        NotFound: there is no such model, version or engine.
        BadBundle: the bundle is incomplete, was changed, or doesn't give its golden answers.
    """
    return load_bundle(open_store(settings).resolve(settings.model), settings)


def load_bundle(folder: Path, settings: Settings, *, beside: bool = False) -> Served:
    """Load, verify and warm up the bundle in `folder`; raises as `load_served`.

    `beside` a model at work, from which as little time as can be is to be taken: then LiteRT is not warmed up for the
    largest batch. That would hold up what is sorted meanwhile by a whole batch, to save its first one a quarter (with
    MobileNetV2 and 16 images 110 ms of processor time, and 30).
    """
    bundle = open_bundle(folder)
    engine = open_engine(
        bundle,
        settings.engine,
        threads=settings.engine_threads,
        max_batch=settings.max_batch,
        background=beside,
        xla=settings.tensorflow_xla,
    )
    engine.warm_up([1] if beside and engine.name.startswith("litert") else [1, settings.max_batch])
    return Served(bundle.manifest, engine, decoder_of(bundle.manifest, settings))


def as_model(served: Served, settings: Settings, *, worker: str) -> Model:
    """The loaded model as `worker` serves it.

    Raises:
        BadSetting: an override of the setting `policies` does not fit the model's classes.
    """
    decider = Decider(served.manifest, engine=served.engine.name, worker=worker, overrides=settings.policies)
    buffer = BatchBuffer(BATCHES_HELD * settings.max_batch, size_px=served.engine.input_size_px)
    return Model(served.manifest, served.engine, served.decoder, decider, BatchCost(), buffer)


def measure(model: Model) -> None:
    """Learn what one image costs a warm model, before the first deadline depends on it; larger batches follow."""
    started = time.monotonic()
    model.engine.warm_up([1])
    model.cost.observe(1, time.monotonic() - started)
