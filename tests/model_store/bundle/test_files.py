"""A bundle that was changed in any way, or answers wrongly, is not opened or not served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from model_store.bundle.files import (
    FLOAT_TOLERANCE,
    INT8_TOLERANCE,
    MIXED_TOLERANCE,
    Golden,
    file_digests,
    golden,
    open_bundle,
    replay_golden,
    write_golden,
)
from model_store.bundle.manifest import FP32_FILE, GOLDEN_FILE, INT8_FILE, MANIFEST_FILE, Manifest
from model_store.engines.loading import EngineName
from shared.errors import BadBundle


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


class Answering:
    """An engine that has its answers beforehand: what replay thinks of them is what is tested."""

    input_size_px = 32
    classes_count = 3

    def __init__(self, name: EngineName, answers: NDArray[np.float32]) -> None:
        self.name = name
        self._answers = answers

    def warm_up(self, batch_sizes: object) -> None:
        raise AssertionError("replay needs no warm-up")

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert batch.flags.c_contiguous
        assert len(batch) == len(self._answers)
        return self._answers


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((bundle / MANIFEST_FILE).read_text())
    change(values)
    (bundle / MANIFEST_FILE).write_text(json.dumps(values))


def drop_good(policy: dict[str, Any]) -> None:
    del policy["lanes"]["good"]
    policy["precedence"].remove("good")


def test_an_untouched_bundle_opens(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest.classes == ("good", "no cap", "disfigured")
    assert bundle.manifest.files.keys() >= {INT8_FILE, FP32_FILE, GOLDEN_FILE, "saved_model/saved_model.pb"}
    assert MANIFEST_FILE not in bundle.manifest.files
    assert bundle.ref("litert").model_dump() == {"name": "tiny", "version": 1, "engine": "litert"}


def test_every_changed_file_is_found_and_named(copied: Path) -> None:
    for name in open_bundle(copied).manifest.files:
        before = (copied / name).read_bytes()
        after = bytearray(before or b"\0")
        after[len(after) // 2] ^= 1
        (copied / name).write_bytes(after)
        with pytest.raises(BadBundle, match=f"{name} has SHA-256"):
            open_bundle(copied)
        (copied / name).write_bytes(before)
    open_bundle(copied)


def test_a_truncated_a_missing_and_an_unlisted_file_are_named(copied: Path) -> None:
    model = copied / INT8_FILE
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    with pytest.raises(BadBundle, match=INT8_FILE):
        open_bundle(copied)
    model.unlink()
    with pytest.raises(BadBundle, match=f"{INT8_FILE} is missing"):
        open_bundle(copied)
    model.write_bytes(content)
    (copied / "saved_model" / "extra.txt").write_text("?")
    with pytest.raises(BadBundle, match=r"saved_model/extra\.txt is not listed"):
        open_bundle(copied)


def test_a_link_is_refused_also_one_to_the_right_content(copied: Path, tiny_bundle: Path) -> None:
    (copied / INT8_FILE).unlink()
    (copied / INT8_FILE).symlink_to(tiny_bundle / INT8_FILE)
    with pytest.raises(BadBundle, match="neither a plain file nor a folder"):
        open_bundle(copied)


def test_a_listed_path_that_leads_outside_is_missing(copied: Path) -> None:
    change_manifest(copied, lambda values: values["files"].update({"../outside": "0" * 64}))
    (copied.parent / "outside").write_text("")
    with pytest.raises(BadBundle, match=r"\.\./outside is missing"):
        open_bundle(copied)


def test_a_manifest_that_is_absent_or_does_not_parse(copied: Path) -> None:
    (copied / MANIFEST_FILE).write_text('{"name": "tiny"')
    with pytest.raises(BadBundle, match=MANIFEST_FILE):
        open_bundle(copied)
    (copied / MANIFEST_FILE).unlink()
    with pytest.raises(BadBundle, match="No such file"):
        open_bundle(copied)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["policy"]["lanes"].pop("no cap"),
        lambda values: values["policy"].update(precedence=["no cap", "good"]),
        lambda values: values["policy"]["thresholds"].update(nocap=0.9),
        lambda values: values.update(classes=["good", "no cap", "disfigured", "good"]),
        lambda values: (values.update(classes=["no cap", "disfigured"]), drop_good(values["policy"])),
        lambda values: values.update(schema_version=2),
        lambda values: values.update(surprise=1),
    ],
    ids=[
        "no lane",
        "no precedence",
        "misspelt class",
        "class twice",
        "multi without good",
        "newer schema",
        "unknown field",
    ],
)
def test_a_manifest_that_could_not_decide_is_refused(copied: Path, change: Callable[[dict[str, Any]], object]) -> None:
    change_manifest(copied, change)
    with pytest.raises(BadBundle, match="not a manifest"):
        open_bundle(copied)
    with pytest.raises(ValidationError):
        Manifest.model_validate_json((copied / MANIFEST_FILE).read_bytes())


def test_digests_do_not_depend_on_the_place(copied: Path, tiny_bundle: Path) -> None:
    assert file_digests(copied) == file_digests(tiny_bundle)


def test_golden_shapes(tiny_bundle: Path) -> None:
    images, float32, int8 = golden(open_bundle(tiny_bundle))
    assert images.dtype == np.uint8
    assert images.shape[1:] == (32, 32, 3)
    assert float32.shape == int8.shape == (len(images), 3)
    assert len(images) >= 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: g._replace(images=g.images[:, :16]),
        lambda g: g._replace(images=g.images.astype(np.float32)),
        lambda g: g._replace(images=g.images[:0], float32=g.float32[:0], int8=g.int8[:0]),
        lambda g: g._replace(float32=g.float32[:, :2]),
        lambda g: g._replace(int8=g.int8[1:]),
    ],
    ids=["size", "type", "none", "classes", "count"],
)
def test_golden_of_the_wrong_shape_is_refused(copied: Path, spoil: Callable[[Golden], Golden]) -> None:
    bundle = open_bundle(copied)
    write_golden(copied, spoil(golden(bundle)))
    with pytest.raises(BadBundle, match=GOLDEN_FILE):
        golden(bundle)


def test_golden_that_is_no_archive_or_holds_objects_is_refused(copied: Path) -> None:
    bundle = open_bundle(copied)
    (copied / GOLDEN_FILE).write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(BadBundle, match="can't be read"):
        golden(bundle)
    np.savez(copied / GOLDEN_FILE, images=np.array([{}], dtype=object))
    with pytest.raises(BadBundle, match="can't be read"):
        golden(bundle)


@pytest.mark.parametrize("name", ["litert", "litert-fp32", "tensorflow", "tensorflow-mixed"])
def test_the_golden_answers_themselves_pass(tiny_bundle: Path, name: EngineName) -> None:
    bundle = open_bundle(tiny_bundle)
    expected = golden(bundle)
    replay_golden(bundle, Answering(name, expected.int8 if name == "litert" else expected.float32))


@pytest.mark.parametrize("name", ["litert", "litert-fp32", "tensorflow", "tensorflow-mixed"])
@pytest.mark.parametrize("times_tolerance", [0.9, 1.1, np.nan])
def test_one_answer_off_by_more_than_the_tolerance_is_refused(
    tiny_bundle: Path, name: EngineName, times_tolerance: float
) -> None:
    bundle = open_bundle(tiny_bundle)
    expected = golden(bundle)
    tolerance = {"litert": INT8_TOLERANCE, "tensorflow-mixed": MIXED_TOLERANCE}.get(name, FLOAT_TOLERANCE)
    answers = (expected.int8 if name == "litert" else expected.float32).copy()
    answers[3, 1] += times_tolerance * tolerance
    if times_tolerance < 1:
        replay_golden(bundle, Answering(name, answers))
    else:
        with pytest.raises(BadBundle, match=r"golden image 3 is answered (nan|0\.\d+) off"):
            replay_golden(bundle, Answering(name, answers))


@pytest.mark.parametrize("engine", ["litert", "tensorflow-mixed"])
def test_rounded_answers_within_the_tolerance_must_give_the_same_labels(copied: Path, engine: EngineName) -> None:
    bundle = open_bundle(copied)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    before, after = (np.array([[0.49, row, 0.02]], np.float32) for row in (0.51, 0.49))
    write_golden(copied, Golden(images=images, float32=before, int8=before))
    replay_golden(bundle, Answering(engine, before))
    with pytest.raises(BadBundle, match=r"golden image 0 is \['good'\], was \['no cap'\]"):
        replay_golden(bundle, Answering(engine, after))
