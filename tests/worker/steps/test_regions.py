"""Each camera's own part of the picture: worker, `classify` and `evaluate` show the model the same pixels."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redis
from numpy.typing import NDArray
from PIL import Image

from model_store.bundle.files import Bundle, open_bundle, read_manifest
from model_store.bundle.manifest import MANIFEST_FILE
from model_store.bundle.policy import decide
from model_store.datasets.dataset import load_dataset
from model_store.datasets.image_loading import DecodeSettings
from model_store.engines.loading import open_engine
from model_store.engines.protocol import Engine
from model_store.evaluation.classify import classify_files
from model_store.evaluation.evaluate import predict_dataset
from model_store.registry.store import open_store
from model_store.runtime.progress import ProgressSteps
from shared.images.crop_regions import ANY_CAMERA, Fit, Region
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import SIZE_PX
from tests.worker.models.versions import Versions, own_versions
from worker.service import WorkerService

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
# Two squares of 32 px above a strip of another color.
REGIONS = {"left": Region(0, 0, 0.5, 2 / 3), "right": Region(0.5, 0, 1, 2 / 3)}
Answer = tuple[tuple[tuple[str, float], ...], str]  # (label, probability) of each label, and the lane


def two_halves() -> bytes:
    """Red on the left, blue on the right, and white below: 64 x 48."""
    image = Image.new("RGB", (64, 48), WHITE)
    image.paste(RED, (0, 0, 32, 32))
    image.paste(BLUE, (32, 0, 64, 32))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def one_color(color: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.full((SIZE_PX, SIZE_PX, 3), color, np.uint8)


def whole(fit: Fit) -> NDArray[np.uint8]:
    """The expected pixels of `two_halves` without a region; for "pad" they are put together by hand."""
    image = Image.open(io.BytesIO(two_halves())).convert("RGB")
    if fit == "stretch":
        return np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    inside = np.asarray(image.resize((32, 24), Image.Resampling.BILINEAR))
    return np.concatenate([inside[:1].repeat(4, axis=0), inside, inside[-1:].repeat(4, axis=0)])


def seen_so(fit: Fit, regions: dict[str, Region]) -> Callable[[Path], None]:
    """A change to a version: it gets this fit and these regions."""

    def build(folder: Path) -> None:
        changed = read_manifest(folder).model_copy(update={"fit": fit, "regions": regions})
        (folder / MANIFEST_FILE).write_text(changed.model_dump_json())

    return build


@pytest.fixture
def versions(settings: Settings, tiny_models: Path) -> tuple[Versions, Settings]:
    return own_versions(settings, tiny_models)


def opened(settings: Settings) -> tuple[Bundle, Engine]:
    bundle = open_bundle(open_store(settings).resolve(settings.model))
    return bundle, open_engine(bundle, "litert", threads=1, max_batch=settings.max_batch)


def answer(probabilities: NDArray[np.float32], bundle: Bundle) -> Answer:
    manifest = bundle.manifest
    decision = decide(probabilities.tolist(), manifest.classes, mode=manifest.mode, policy=manifest.policy)
    return decision.labels, decision.lane


def expected(fit: Fit, bundle: Bundle, engine: Engine) -> dict[str, Answer]:
    """The engine's answer to the expected pixels of each camera; all answers differ."""
    views = {"left": one_color(RED), "right": one_color(BLUE), "other": whole(fit)}
    rows = engine.predict(np.stack(list(views.values())))
    answers = {camera: answer(row, bundle) for camera, row in zip(views, rows, strict=True)}
    assert len(set(answers.values())) == 3, "the views are too similar for the model to tell them apart"
    return answers


def sorted_by_a_worker(settings: Settings, client: redis.Redis) -> dict[str, Answer]:
    frames = [kit.Frame(data=two_halves(), line="l1", camera=camera) for camera in ("left", "other", "right")]
    kit.submit(settings, *frames, *frames)
    assert WorkerService(settings, burst=True).run() == 0
    results = kit.stream(client)
    assert len(results) == 6
    answers = {
        result.camera: (tuple((each.label, each.probability) for each in result.labels), str(result.lane))
        for result in results
    }
    assert len({(result.camera, result.labels, result.lane) for result in results}) == len(answers) == 3
    return answers


def classified(path: Path, bundle: Bundle, engine: Engine, settings: Settings) -> dict[str, Answer]:
    answers = {}
    for name, camera in (("left", "left"), ("right", "right"), ("other", ANY_CAMERA)):
        (found,) = classify_files([path], bundle=bundle, engine=engine, settings=settings, camera=camera)
        assert found.decision is not None
        answers[name] = (found.decision.labels, found.decision.lane)
    return answers


def evaluated(folder: Path, bundle: Bundle, engine: Engine) -> dict[str, Answer]:
    folder.mkdir()
    rows = ["filename,labels,camera"]
    for camera in ("left", "other", "right"):
        (folder / f"{camera}.png").write_bytes(two_halves())
        rows.append(f"{camera}.png,good,{camera}")
    (folder / "labels.csv").write_text("\n".join(rows))
    predictions = predict_dataset(
        load_dataset(folder), bundle, engine, max_batch=2, decode_settings=DecodeSettings(), steps=ProgressSteps()
    )
    return {
        str(sample.camera): answer(row, bundle)
        for sample, row in zip(predictions.samples, predictions.probabilities, strict=True)
    }


def nearly(answers: dict[str, Answer]) -> dict[str, object]:
    """The answers with approximate probabilities, since results hold fewer digits than a float has."""
    return {
        camera: ([label for label, _ in labels], pytest.approx([p for _, p in labels], abs=1e-6), lane)
        for camera, (labels, lane) in answers.items()
    }


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_worker_classify_and_evaluate_use_each_cameras_region(
    versions: tuple[Versions, Settings], client: redis.Redis, tmp_path: Path, fit: Fit, own_signals: None
) -> None:
    store, settings = versions
    store.publish(build=seen_so(fit, REGIONS))
    bundle, engine = opened(settings)
    (tmp_path / "halves.png").write_bytes(two_halves())
    wanted = expected(fit, bundle, engine)
    for found in (
        sorted_by_a_worker(settings, client),
        classified(tmp_path / "halves.png", bundle, engine, settings),
        evaluated(tmp_path / "dataset", bundle, engine),
    ):
        assert {
            camera: ([label for label, _ in labels], [p for _, p in labels], lane)
            for camera, (labels, lane) in found.items()
        } == nearly(wanted)


@pytest.mark.slow
def test_a_promoted_version_brings_its_own_regions(
    versions: tuple[Versions, Settings], client: redis.Redis, own_signals: None
) -> None:
    store, settings = versions
    store.publish(build=seen_so("pad", REGIONS))
    before = sorted_by_a_worker(settings, client)
    client.flushall()
    swapped = {"left": REGIONS["right"], "right": REGIONS["left"]}
    store.publish(build=seen_so("pad", swapped))
    after = sorted_by_a_worker(settings, client)
    assert (after["left"], after["right"], after["other"]) == (before["right"], before["left"], before["other"])
