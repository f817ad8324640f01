"""Two versions whose classes are spelled in different ways: neither wins by its spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.files import Bundle
from model_store.bundle.policy import Policy
from model_store.datasets.dataset import Dataset
from model_store.datasets.image_loading import DecodeSettings
from model_store.evaluation.compare import Comparison, compare_versions
from model_store.reports.comparison_output import warnings
from model_store.runtime.progress import ProgressSteps
from shared.errors import BadDataset, BadSetting
from tests.model_store.evaluation.test_compare import Fixed, bundle, three_images
from tests.model_store.tiny_bundle import CLASSES

RIGHT = [[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]
SWAPPED = [[b, a] for a, b in RIGHT]


def single(path: Path, classes: tuple[str, ...]) -> Bundle:
    """A model of mode `single`: one of mode `multi` always has a class that is spelled `good`."""
    changes = {"classes": classes, "mode": "single", "policy": Policy.default(classes, "single")}
    return Bundle(path, bundle(path, CLASSES).manifest.model_copy(update=changes))


def compared(dataset: Dataset, path: Path, a: tuple[str, ...], b: tuple[str, ...], answers: object) -> Comparison:
    models = (single(path, a), Fixed(RIGHT)), (single(path, b), Fixed(answers))  # type: ignore[arg-type]
    return compare_versions(dataset, *models, max_batch=8, decode_settings=DecodeSettings(), steps=ProgressSteps())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("a", "b", "answers"),
    [
        (("Good", "no cap"), ("good", "no cap"), RIGHT),
        (("good", "no cap"), ("Good", "no cap"), RIGHT),
        (("good", "NO-CAP"), ("no_cap", "GOOD"), SWAPPED),
    ],
)
def test_spelling_decides_nothing(
    tmp_path: Path, a: tuple[str, ...], b: tuple[str, ...], answers: list[list[float]]
) -> None:
    dataset = three_images(tmp_path, "good", "no cap", "Good")
    found = compared(dataset, tmp_path, a, b, answers)
    summary = found.as_dict()
    assert summary["right"] == {"both": 3, "only_a": 0, "only_b": 0, "neither": 0, "p_value": 1.0}
    assert summary["figures"]["macro_f1"] == {"a": 1.0, "b": 1.0, "difference": 0.0}
    labels = summary["labels"]
    assert labels["shared"] == list(a)
    assert labels["only_a"] == labels["only_b"] == labels["unknown_to_both"] == []
    assert labels["same"].items() <= dict(zip(a if answers is RIGHT else a[::-1], b, strict=True)).items()
    assert set(labels["same"]) == set(a) - set(b)
    assert f"{a[0]!r} of A is " in "\n".join(warnings(found)) or a[0] in b


def test_an_exact_name_comes_before_one_that_is_alike(tmp_path: Path) -> None:
    dataset = three_images(tmp_path, "good", "no cap", "good")
    answers = [[0.0, 0.9, 0.1], [0.0, 0.1, 0.9], [0.0, 0.9, 0.1]]  # as trained from a folder called Good
    labels = compared(dataset, tmp_path, ("good", "no cap"), ("Good", "good", "no cap"), answers).as_dict()["labels"]
    assert (labels["shared"], labels["only_b"], labels["same"]) == (["good", "no cap"], ["Good"], {})


def test_a_label_of_one_version_alone_has_its_name(tmp_path: Path) -> None:
    dataset = three_images(tmp_path, "good", "No-Cap", "good")
    answers = [[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]
    found = compared(dataset, tmp_path, ("good", "bent"), ("Good", "no cap"), answers).as_dict()
    assert (found["labels"]["only_b"], found["labels"]["unknown_to_both"]) == (["no cap"], [])
    assert found["right"]["only_b"] == 1


def test_classes_of_one_form_are_refused_where_it_is_unclear_which_is_meant(tmp_path: Path) -> None:
    dataset = three_images(tmp_path, "good", "no cap", "good")
    answers = [[0.9, 0.1, 0.0]] * 3
    with pytest.raises(BadSetting, match=r"'No Cap' and 'no-cap' of one model .* 'no cap' of the other"):
        compared(dataset, tmp_path, ("good", "no cap"), ("good", "No Cap", "no-cap"), answers)
    with pytest.raises(BadDataset, match="'no cap' may be 'No Cap' or 'no-cap' of the model"):
        dataset.named_like(["good", "No Cap", "no-cap"])
