"""The LiteRT engine whose close int8 answers fp32 rechecks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import model_store.engines.litert as module
from model_store.bundle.files import open_bundle
from model_store.bundle.golden import read_golden, write_golden
from model_store.bundle.manifest import FP32_FILE, INT8_FILE, MANIFEST_FILE, Manifest
from model_store.engines.litert import Fp32Recheck, LiteRTEngine
from model_store.engines.loading import open_engine
from model_store.engines.protocol import EngineName
from model_store.engines.recheck import RecheckRule
from model_store.registry.store import ModelStore, file_digests
from shared.errors import BadBundle, EngineFailed
from tests.model_store.tiny_bundle import CLASSES, random_images

MARGIN = 0.6  # logits: rechecks some of the tiny models' answers, and not all
BUNDLES = ("tiny", "tiny-single")


def rule_of(bundle: Path, margin: float = MARGIN) -> RecheckRule:
    manifest = open_bundle(bundle).manifest
    return RecheckRule(manifest.classes, mode=manifest.mode, policy=manifest.policy, margin=margin)


def engine_of(bundle: Path, *, threads: int, margin: float | None = MARGIN, file: str = INT8_FILE) -> LiteRTEngine:
    recheck = None
    if margin is not None:
        recheck = Fp32Recheck((bundle / FP32_FILE).read_bytes(), bundle / FP32_FILE, rule_of(bundle, margin))
    return LiteRTEngine(
        (bundle / file).read_bytes(),
        name="litert",
        input_size_px=32,
        classes_count=len(CLASSES),
        threads=threads,
        location=bundle / file,
        recheck=recheck,
    )


@pytest.fixture
def invoked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The interpreters that ran, in order."""
    seen, invoke, recording = list[int](), Interpreter.invoke, threading.Lock()

    def recorded(self: Interpreter) -> None:
        with recording:
            seen.append(id(self))
        invoke(self)

    monkeypatch.setattr(Interpreter, "invoke", recorded)
    return seen


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_it_answers_what_the_export_computes_from_both_models(
    tiny_store: ModelStore, name: str, *, threads: int, invoked: list[int]
) -> None:
    bundle, images = tiny_store.resolve(name), random_images(60, seed=11)
    int8, fp32 = (
        engine_of(bundle, threads=1, margin=None, file=file).predict(images) for file in (INT8_FILE, FP32_FILE)
    )
    rule = rule_of(bundle)
    rechecked = rule.rows(int8)
    assert 0 < rechecked.sum() < len(images)
    invoked.clear()
    answers = engine_of(bundle, threads=threads).predict(images)
    np.testing.assert_array_equal(answers, rule.answers(int8=int8, fp32=fp32))
    assert len(invoked) == len(images) + rechecked.sum()


def test_a_lone_image_is_rechecked_too(tiny_bundle: Path) -> None:
    engine, images = engine_of(tiny_bundle, threads=2), random_images(20, seed=11)
    alone = np.concatenate([engine.predict(images[index : index + 1]) for index in range(len(images))])
    np.testing.assert_array_equal(alone, engine.predict(images))


@pytest.mark.parametrize(
    ("threads", "sizes", "interpreters"), [(1, [1, 4], 2), (2, [1], 2), (2, [1, 4], 4), (4, [1, 4], 7)]
)
def test_both_models_are_warmed_up(
    tiny_bundle: Path, invoked: list[int], *, threads: int, sizes: list[int], interpreters: int
) -> None:
    engine_of(tiny_bundle, threads=threads).warm_up(sizes)
    assert len(invoked) == len(set(invoked)) == interpreters


def test_two_callers_get_the_same_answers_as_one(tiny_bundle: Path) -> None:
    engine, images = engine_of(tiny_bundle, threads=2), random_images(40, seed=11)
    expected, ready = engine.predict(images), list[None]()
    with ThreadPoolExecutor(2) as callers:
        halves = callers.map(
            lambda half: engine.predict(half, on_ready_for_next=lambda: ready.append(None)), (images[:20], images[20:])
        )
        np.testing.assert_array_equal(np.concatenate(list(halves)), expected)
    assert len(ready) == 2


def test_a_failed_recheck_fails_the_batch_and_the_next_succeeds(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, images = engine_of(tiny_bundle, threads=1, margin=20), random_images(1)
    before, invoke, runs = engine.predict(images), Interpreter.invoke, list[int]()

    def second_fails(self: Interpreter) -> None:
        runs.append(id(self))
        if len(runs) == 2:
            raise RuntimeError("Node number 3 failed to invoke")
        invoke(self)

    monkeypatch.setattr(Interpreter, "invoke", second_fails)
    with pytest.raises(EngineFailed, match=r"litert failed on uint8\[1, 32, 32, 3\]: Node number 3"):
        engine.predict(images)
    assert len(set(runs)) == 2
    np.testing.assert_array_equal(engine.predict(images), before)


def test_int8_answers_that_are_no_numbers_are_refused_and_not_rechecked(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny_bundle, threads=1, margin=20)
    answer, calls = module._ImageInterpreter.answer, list[int]()

    def first_is_nan(self: module._ImageInterpreter, image: object) -> object:
        calls.append(id(self))
        return np.full((1, 3), np.nan, np.float32) if len(calls) == 1 else answer(self, image)  # type: ignore[arg-type]

    monkeypatch.setattr(module._ImageInterpreter, "answer", first_is_nan)
    with pytest.raises(EngineFailed, match="not finite for image 0 of 1"):
        engine.predict(random_images(1))
    assert len(calls) == 1


def test_an_answer_of_another_shape_is_refused(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(tiny_bundle, threads=1)
    monkeypatch.setattr(module._ImageInterpreter, "answer", lambda self, image: np.zeros((1, 2), np.float32))
    with pytest.raises(EngineFailed, match=r"shape \[1, 2\], but should give \[1, 3\]"):
        engine.predict(random_images(1))


def with_margin(bundle: Path, margin: float) -> Path:
    """Give a copied bundle rechecks, and the golden answers of an engine that has them."""
    golden = read_golden(open_bundle(bundle))
    int8 = engine_of(bundle, threads=1, margin=margin).predict(golden.images)
    write_golden(bundle, golden._replace(int8=int8))
    manifest = Manifest.model_validate_json((bundle / MANIFEST_FILE).read_bytes())
    changed = manifest.model_copy(update={"int8_recheck_margin": margin, "files": file_digests(bundle)})
    (bundle / MANIFEST_FILE).write_text(changed.model_dump_json())
    return bundle


def test_a_bundle_with_a_margin_opens_an_engine_that_rechecks(copied: Path) -> None:
    images = random_images(60, seed=11)
    expected = engine_of(copied, threads=1).predict(images)
    bundle = open_bundle(with_margin(copied, MARGIN))
    engine = open_engine(bundle, "litert", threads=2, max_batch=4)
    assert engine.name == "litert"
    np.testing.assert_array_equal(engine.predict(images), expected)
    fp32 = open_engine(bundle, "litert-fp32", threads=2, max_batch=4).predict(images)
    assert (fp32 != expected).any()


@pytest.mark.parametrize(
    ("name", "margin", "made"), [("litert", 0.0, 1), ("litert", MARGIN, 2), ("litert-fp32", MARGIN, 1)]
)
def test_only_rechecks_load_a_second_model(
    copied: Path, monkeypatch: pytest.MonkeyPatch, *, name: EngineName, margin: float, made: int
) -> None:
    bundle = open_bundle(with_margin(copied, margin))
    contents, create = list[bytes](), Interpreter.__init__

    def counted(self: Interpreter, *, model_content: bytes, num_threads: int) -> None:
        contents.append(model_content)
        create(self, model_content=model_content, num_threads=num_threads)

    monkeypatch.setattr(Interpreter, "__init__", counted)
    open_engine(bundle, name, threads=1, max_batch=4)
    assert len(contents) == made


def test_an_fp32_model_that_is_exchanged_after_the_check_is_not_loaded(copied: Path) -> None:
    bundle = open_bundle(with_margin(copied, MARGIN))
    (copied / FP32_FILE).write_bytes((copied / INT8_FILE).read_bytes())
    with pytest.raises(BadBundle, match=rf"{FP32_FILE} has SHA-256"):
        open_engine(bundle, "litert", threads=1, max_batch=4)


def test_a_bundle_with_a_margin_needs_its_fp32_model(copied: Path) -> None:
    with_margin(copied, MARGIN)
    (copied / FP32_FILE).unlink()
    manifest = Manifest.model_validate_json((copied / MANIFEST_FILE).read_bytes())
    changed = manifest.model_copy(update={"files": file_digests(copied)})
    (copied / MANIFEST_FILE).write_text(changed.model_dump_json())
    with pytest.raises(BadBundle, match=rf"{FP32_FILE} can't be read"):
        open_engine(open_bundle(copied), "litert", threads=1, max_batch=4)
