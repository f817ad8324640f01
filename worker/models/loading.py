"""Loads models: verifies them, warms them up, and makes their decoders. In: a bundle's folder. Out: `Model`."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from model_store.bundle.files import Bundle
from model_store.bundle.manifest import Manifest
from model_store.bundle.preprocessing import decoder_of, sample_bits_warning
from model_store.engines.isolated_load import isolated_load_error
from model_store.engines.loading import open_engine, resolve_engine_name
from model_store.engines.protocol import Engine
from model_store.registry.chosen_model import chosen_model
from model_store.registry.store import open_store
from shared.errors import BadBundle
from shared.images.decoder_process import DecoderProcess
from shared.settings import Settings
from worker.models.decider import Decider
from worker.models.model import Decoder, Model
from worker.state.batch_cost import BatchCost
from worker.state.pixel_buffer import BATCHES_HELD, PixelBuffer

log = logging.getLogger("sortline.worker")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is loaded, verified and warmed up, and the decoder for its images."""

    manifest: Manifest
    engine: Engine
    decoder: Decoder


def load_model(settings: Settings) -> LoadedModel:
    """Load, verify and warm up the model that `chosen_model` chooses.

    Raises:
        NotFound: there is no such model, version or engine.
        BadBundle: the bundle is incomplete, was changed, or doesn't give its golden answers. BadSignature: it must be
            signed by a trusted key, and is not.
    """
    store = open_store(settings)
    return load_bundle(store.open(chosen_model(settings, store)), settings)


def load_bundle(bundle: Bundle, settings: Settings, *, background: bool = False) -> LoadedModel:
    """Load, verify and warm up a bundle that the store has opened; raises BadBundle and NotFound as `load_model`.

    `background`: another model works meanwhile, and loading must take as little time from it as possible. Then LiteRT
    is not warmed up for the largest batch. Such a warm-up would delay the working model by a whole batch (with
    MobileNetV2 and 16 images 110 ms of processor time) and save the new model's first batch only a quarter of that
    (30 ms). A process of its own loads the model first.
    """
    if background:
        _check_apart(bundle, settings)
    if warning := sample_bits_warning(bundle.manifest, settings.sample_bits):
        log.warning("%s", warning)
    engine = open_engine(
        bundle,
        settings.engine,
        threads=settings.engine_threads,
        max_batch=settings.max_batch,
        background=background,
        xla=settings.tensorflow_xla,
    )
    engine.warm_up([1] if background and engine.name.startswith("litert") else [1, settings.max_batch])
    decoder_process = _decoder_process(settings.max_image_bytes, settings.max_decode_bytes)
    return LoadedModel(bundle.manifest, engine, decoder_of(bundle.manifest, settings, decoder_process=decoder_process))


def _check_apart(bundle: Bundle, settings: Settings) -> None:
    """Load the model in another process first: one that crashes its engine must not end a worker that is serving."""
    engine = resolve_engine_name(settings.engine, cpu_engine=bundle.manifest.cpu_engine)
    if (error := isolated_load_error(bundle, engine, background=True)) is not None:
        raise BadBundle(error)


@functools.cache
def _decoder_process(max_bytes: int, max_decode_bytes: int) -> DecoderProcess:
    """One process for all models of this worker, as it stays and takes memory. Starts with the first costly image."""
    return DecoderProcess(max_bytes=max_bytes, max_decode_bytes=max_decode_bytes)


def as_model(loaded: LoadedModel, settings: Settings, *, worker: str) -> Model:
    """The loaded model as `worker` serves it.

    Raises:
        BadSetting: an override of the setting `policies` does not fit the model's classes.
    """
    decider = Decider(loaded.manifest, engine=loaded.engine.name, worker=worker, overrides=settings.policies)
    buffer = PixelBuffer(BATCHES_HELD * settings.max_batch, size_px=loaded.engine.input_size_px)
    return Model(loaded.manifest, loaded.engine, loaded.decoder, decider, BatchCost(), buffer)


def measure(model: Model, *, batch_sizes: Sequence[int]) -> None:
    """Measure a model before the first deadline, and the estimate of what the worker can do, depend on it.

    The first run of each size is not measured: it may be a cold one. Other batch sizes are measured in use.
    """
    for size in sorted(set(batch_sizes)):
        model.engine.warm_up([size])
        started = time.monotonic()
        model.engine.warm_up([size])
        model.cost.observe(size, time.monotonic() - started)
