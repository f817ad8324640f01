"""Names of one class that are written in several ways are one class, and it is told; other names stay apart."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from model_store.datasets.comparable import comparable
from model_store.datasets.dataset import check_trainable, load_dataset, training_mode
from model_store.datasets.label_names import class_names, is_like_good
from shared.errors import BadDataset
from tests.model_store.datasets.test_dataset import write_folders
from tests.model_store.datasets.test_label_tables import write_images

NFC, NFD = (unicodedata.normalize(form, "grün") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    "names",
    [
        ("Good", "good", "GOOD", " good "),
        ("no cap", "No Cap", "no-cap", "no_cap", "no  cap", "NO - CAP", "no\u00a0cap", "_no cap_"),
        (NFC, NFD, NFC.upper()),
        ("straße", "STRASSE"),
    ],
)
def test_forms_of_one_name(names: tuple[str, ...]) -> None:
    assert len({comparable(name) for name in names}) == 1


@pytest.mark.parametrize("names", [("1", "-1"), ("nocap", "no cap"), ("cap !", "cap-?"), ("a", "ä"), ("-", "_", "--")])
def test_other_names_stay_apart(names: tuple[str, ...]) -> None:
    assert len({comparable(name) for name in names}) == len(names)


def test_the_most_frequent_form_names_the_class() -> None:
    found = class_names({"No Cap": 2, "no-cap": 5, "Bent": 1, "bent": 1, "OK": 3})
    assert found.name_of == {"No Cap": "no-cap", "no-cap": "no-cap", "Bent": "bent", "bent": "bent", "OK": "OK"}
    assert found.merged == {"bent": ("Bent", "bent"), "no-cap": ("No Cap", "no-cap")}


def test_good_is_good_in_any_case_and_by_the_name_that_the_user_gives() -> None:
    assert class_names({"Good": 9, "no cap": 1}).name_of["Good"] == "good"
    assert class_names({"O.K.": 9, "ok": 1}, good_class="OK").merged == {"good": ("ok",)}
    assert class_names({"ok": 9, "good": 1}, good_class="ok").merged == {"good": ("good", "ok")}
    assert class_names({"ok": 9}, good_class="good").name_of == {"ok": "ok"}
    with pytest.raises(BadDataset, match=r"--good-class fine: the dataset has no class of this name.*: 'no cap', 'ok'"):
        class_names({"ok": 9, "no cap": 1}, good_class="fine")


@pytest.mark.parametrize("name", ["ok", "OK", "Okay", "normal", "No-Defect", "no_defects", "intact", "pass", "i.O."])
def test_names_that_seem_to_mean_good(name: str) -> None:
    assert is_like_good(name)
    assert not is_like_good(f"not {name}")


def test_folders_of_one_class_are_merged_and_told(tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path, "Good", "no cap", "No-Cap", "no cap ", NFC, NFD, "No Cap+Good Grip"))
    assert dataset.classes == ("Good Grip", "good", "grün", "no cap")
    assert dataset.reading.merged == {
        "good": ("Good",),
        "grün": (NFD, NFC),
        "no cap": ("No Cap", "No-Cap", "no cap", "no cap "),
    }
    told = "\n".join(dataset.reading.lines())
    assert "one class: 'No Cap', 'No-Cap', 'no cap ' are read as 'no cap'" in told
    assert r"one class: 'gru\u0308n' is read as 'grün'" in told
    assert "one class: 'Good' is read as 'good'" in told


@pytest.mark.parametrize("file", ["labels.csv", "labels.jsonl"])
def test_labels_in_tables_are_merged_and_told(tmp_path: Path, file: str) -> None:
    labels = {"a.png": "GOOD", "b.png": "no cap|Bent", "c.png": "No-Cap", "d.png": "no cap "}
    lines = {
        "labels.csv": ["filename,labels", *(f"{name},{text}" for name, text in labels.items())],
        "labels.jsonl": [f'{{"filename": "{name}", "labels": "{text}"}}' for name, text in labels.items()],
    }
    (write_images(tmp_path, *labels) / file).write_text("\n".join(lines[file]))
    dataset = load_dataset(tmp_path)
    assert [sample.labels for sample in dataset.samples] == [("good",), ("Bent", "no cap"), ("no cap",), ("no cap",)]
    assert dataset.reading.merged == {"good": ("GOOD",), "no cap": ("No-Cap", "no cap")}


@pytest.mark.parametrize(("folder", "good_class"), [("Good+no cap", None), ("OK+no cap", "ok")])
def test_good_in_another_form_beside_a_defect_is_refused(tmp_path: Path, folder: str, good_class: str | None) -> None:
    with pytest.raises(BadDataset, match=f"folder '{folder[:2]}.*`good` stands beside 'no cap'"):
        load_dataset(write_folders(tmp_path, "no cap", folder), good_class=good_class)


def test_ok_is_never_a_defect_without_a_word(tmp_path: Path) -> None:
    for number in range(2):
        write_folders(tmp_path / str(number), "OK", "no cap", "bent+no cap")
    folder = tmp_path / "set"
    for name in ("OK", "no cap", "bent+no cap"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / str(number) / name / "0.png").rename(folder / name / f"{number}.png")
    dataset = load_dataset(folder)
    assert "'OK' may mean that a bottle has no defect" in "\n".join(dataset.reading.lines())
    with pytest.raises(BadDataset, match="Give --good-class 'OK' if it means `good`, or --good-class good if it is a"):
        check_trainable(dataset, dataset.samples, training_mode(dataset, None))
    check_trainable(dataset, dataset.samples[:4], "single")
    named = load_dataset(folder, good_class="ok")
    assert named.classes == ("bent", "good", "no cap")
    check_trainable(named, named.samples, "multi")
    defect = load_dataset(folder, good_class="good")
    check_trainable(defect, defect.samples, "multi")
    assert defect.reading.like_good == ()


def test_a_dataset_takes_the_names_of_a_models_classes(tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path, "Good", "NO-CAP+bent", "odd"))
    named = dataset.named_like(["Good", "no cap", "bent"])
    assert named.classes == ("Good", "bent", "no cap", "odd")
    assert [sample.labels for sample in named.samples] == [("Good",), ("bent", "no cap"), ("odd",)]
    assert dataset.named_like(["good", "NO-CAP", "no cap"]).classes == dataset.classes


def test_a_comma_in_a_folders_name_is_told(tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path, "no cap, bent", "good"))
    assert dataset.classes == ("good", "no cap, bent")
    (line,) = dataset.reading.lines()
    assert line.startswith("'no cap, bent': one label, although its name has `,` or `;`. To join labels")
