"""How datasets are read, and the errors for datasets that can't be read."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_store.datasets.dataset import Dataset, check_trainable, load_dataset, training_mode
from model_store.datasets.image_loading import DecodedSamples, DecodeSettings, decode_samples
from shared.errors import BadDataset
from tests.kit import ASCII_LOCALE, run_python
from tests.model_store.tiny_backbone import SIZE_PX, picture, write_class_folders, write_labeled

ROWS = {"a.png": "good", "b.png": "no cap|pigmented", "c.png": "pigmented", "d.png": "no cap"}


def _decode(dataset: Dataset) -> DecodedSamples:
    return decode_samples(
        dataset.files, dataset.samples, size_px=SIZE_PX, decode_settings=DecodeSettings(), on_progress=lambda _: None
    )


def _zip(folder: Path, target: Path, *, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return target


def test_class_folders(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "set", per_class=3)
    (folder / "forgotten.jpg").write_bytes(b"x")
    (folder / "README.md").write_text("not an image")
    dataset = load_dataset(folder)
    assert dataset.unlabelled == ("forgotten.jpg",)
    assert dataset.classes == ("good", "no cap", "pigmented")
    assert [sample.labels for sample in dataset.samples] == [("good",)] * 3 + [("no cap",)] * 3 + [("pigmented",)] * 3


def test_labels_csv_and_images_that_it_does_not_list(tmp_path: Path) -> None:
    folder = write_labeled(tmp_path, ROWS)
    (folder / "forgotten.jpg").write_bytes(b"x")
    (folder / "README.md").write_text("not an image")
    dataset = load_dataset(folder)
    assert {sample.name: sample.labels for sample in dataset.samples} == {
        name: tuple(labels.split("|")) for name, labels in ROWS.items()
    }
    assert dataset.unlabelled == ("forgotten.jpg",)


def test_names_that_were_marked_for_spreadsheets_are_read_without_the_mark(tmp_path: Path) -> None:
    """`classify --out` writes such names, and people make a labels.csv of it."""
    folder = write_labeled(tmp_path, {"=1.png": "good", "'=1.png": "no cap", "'q'.png": "pigmented"})
    (folder / "labels.csv").write_text("filename,labels\n'=1.png,good\n''=1.png,no cap\n'q'.png,pigmented\n")
    samples = {sample.name: sample.labels for sample in load_dataset(folder).samples}
    assert samples == {"=1.png": ("good",), "'=1.png": ("no cap",), "'q'.png": ("pigmented",)}


def test_jsonl_is_read_like_csv(tmp_path: Path) -> None:
    folder = write_labeled(tmp_path, ROWS)
    expected = load_dataset(folder).samples
    (folder / "labels.csv").unlink()
    lines = [{"filename": "a.png", "labels": ["good"]}, {"filename": "b.png", "labels": ["pigmented", "no cap"]}]
    lines += [{"filename": name, "labels": ROWS[name]} for name in ("c.png", "d.png")]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load_dataset(folder).samples == expected


def test_a_camera_may_be_named(tmp_path: Path) -> None:
    folder = write_labeled(tmp_path, ROWS)
    expected = {"a.png": "top-1", "b.png": None, "c.png": "top-1", "d.png": "side"}
    lines = [f"{expected[name] or ''},{name},{labels}" for name, labels in ROWS.items()]
    (folder / "labels.csv").write_text("camera,filename,labels\n" + "\n".join(lines))
    from_csv = load_dataset(folder).samples
    assert {sample.name: sample.camera for sample in from_csv} == expected
    (folder / "labels.csv").unlink()
    rows = [{"filename": name, "labels": ROWS[name], "camera": camera} for name, camera in expected.items()]
    del rows[1]["camera"]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load_dataset(folder).samples == from_csv
    for camera, message in (("top left", "can't be a camera's name"), (7, "camera 7 should be a string")):
        (folder / "labels.jsonl").write_text(json.dumps(rows[0] | {"camera": camera}))
        with pytest.raises(BadDataset, match=f"line 1: .*{message}"):
            load_dataset(folder)


def write_folders(root: Path, *folders: str) -> Path:
    """One picture in each folder."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        (root / folder / "0.png").write_bytes(picture("good", number))
    return root


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    elsewhere = write_folders(tmp_path / "elsewhere", "caps", "caps/day 2")
    dataset = write_folders(tmp_path / "set", "good")
    (dataset / "no cap").symlink_to(elsewhere / "caps")
    (dataset / "good" / "more").symlink_to("../../elsewhere/caps/day 2")
    loaded = load_dataset(dataset)
    assert [sample.name for sample in loaded.samples] == [
        "good/0.png",
        "good/more/0.png",
        "no cap/0.png",
        "no cap/day 2/0.png",
    ]
    assert _decode(loaded).unreadable == ()


@pytest.mark.parametrize("target", ["..", ".", "../..", "../../elsewhere"])
def test_a_link_to_its_own_folder_is_not_followed_for_ever(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_folders(tmp_path / "set", "good", "no cap")
    (write_folders(tmp_path / "elsewhere", "caps") / "back").symlink_to("../set")
    (dataset / "good" / "loop").symlink_to(target)
    monkeypatch.chdir(dataset)
    names = [sample.name for sample in load_dataset(dataset).samples]
    expected = ["good/loop/caps/0.png"] if target == "../../elsewhere" else []
    assert names == ["good/0.png", *expected, "no cap/0.png"]
    assert [sample.name for sample in load_dataset(Path()).samples] == names
    (dataset / "all").symlink_to(dataset)
    looping = load_dataset(dataset)
    with pytest.raises(BadDataset, match="class 'all' has 0 usable"):
        check_trainable(looping, looping.samples * 2, "single")


def test_folders_may_join_labels(tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path, "good", "no cap", "pigmented + no cap", "disfigured+no cap+no cap"))
    assert {sample.name: sample.labels for sample in dataset.samples} == {
        "good/0.png": ("good",),
        "no cap/0.png": ("no cap",),
        "pigmented + no cap/0.png": ("no cap", "pigmented"),
        "disfigured+no cap+no cap/0.png": ("disfigured", "no cap"),
    }
    assert dataset.classes == ("disfigured", "good", "no cap", "pigmented")
    zipped = load_dataset(_zip(tmp_path, tmp_path.parent / "joined.zip"))
    assert (zipped.samples, zipped.classes, zipped.complete) == (dataset.samples, dataset.classes, True)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("good+no cap", r"folder 'good\+no cap': `good` stands beside 'no cap'"),
        ("no cap+", r"`\+` joins the labels in a folder's name, and in 'no cap\+' one of them is empty"),
        ("C++", r"`\+` joins .*in 'C\+\+' one of them is empty\. Give the folder another name"),
        ("+", r"in '\+' one of them is empty"),
        ("x" * 200, r"folder 'x{80}': the label 'x{20}'… has 200 characters, but may have 64"),
        ("a|b", "can't be a label"),
    ],
)
def test_a_wrong_folder_is_named(tmp_path: Path, folder: str, message: str) -> None:
    with pytest.raises(BadDataset, match=message):
        load_dataset(write_folders(tmp_path, "no cap", folder))


def test_folders_of_one_label_leave_the_other_defects_unknown(tmp_path: Path) -> None:
    dataset = load_dataset(write_folders(tmp_path, "good", "no cap", "pigmented"))
    assert not dataset.complete
    assert {sample.labels[0]: dataset.known_labels(sample) for sample in dataset.samples} == {
        "good": ("good", "no cap", "pigmented"),
        "no cap": ("good", "no cap"),
        "pigmented": ("good", "pigmented"),
    }
    assert dataset.known_labels(dataset.samples[1], ["no strip", "no cap"]) == ("no cap",)
    assert dataset.known_labels(dataset.samples[0], ["no strip", "no cap"]) == ("no strip", "no cap")
    assert not dataset.with_samples(dataset.samples[:1]).complete


@pytest.mark.parametrize("joined", ["no cap+pigmented", "no cap"])
def test_folders_that_join_labels_and_tables_leave_nothing_unknown(tmp_path: Path, joined: str) -> None:
    if joined == "no cap":
        dataset = load_dataset(write_labeled(tmp_path, ROWS))
    else:
        write_folders(tmp_path, "no cap", "pigmented")
        (tmp_path / joined).mkdir()  # even an empty folder shows where bottles with both labels would be
        dataset = load_dataset(tmp_path)
    assert dataset.complete
    for sample in dataset.samples:
        assert dataset.known_labels(sample) == ("good", "no cap", "pigmented")
        assert dataset.known_labels(sample, ["no strip"]) == ("no strip",)


def test_the_mode_is_multi_if_an_image_has_several_labels(tmp_path: Path) -> None:
    several = load_dataset(write_labeled(tmp_path / "several", ROWS))
    one = several.with_samples(sample for sample in several.samples if len(sample.labels) == 1)
    assert [training_mode(several, None), training_mode(one, None)] == ["multi", "single"]
    assert [training_mode(several, "multi"), training_mode(one, "multi"), training_mode(one, "single")] == [
        "multi",
        "multi",
        "single",
    ]
    with pytest.raises(BadDataset, match=r"b\.png has the labels no cap and pigmented, .*Use --mode multi"):
        training_mode(several, "single")
    odd = several.with_samples(replace(sample, name="b\n.png") for sample in several.samples)
    with pytest.raises(BadDataset, match=r"b\\n\.png has the labels"):
        training_mode(odd, "single")


@pytest.mark.parametrize("prefix", ["", "bottles/"])
def test_a_zip_is_read_like_its_folder(tmp_path: Path, prefix: str) -> None:
    for kind in (write_class_folders(tmp_path / "folders", per_class=2), write_labeled(tmp_path / "table", ROWS)):
        plain, zipped = load_dataset(kind), load_dataset(_zip(kind, tmp_path / "set.zip", prefix=prefix))
        assert (zipped.classes, zipped.samples) == (plain.classes, plain.samples)
        assert _decode(zipped).fingerprint == _decode(plain).fingerprint
        np.testing.assert_array_equal(_decode(zipped).images, _decode(plain).images)


def test_a_cut_zip_is_not_read_as_the_zip_in_it(tmp_path: Path) -> None:
    inner = _zip(write_class_folders(tmp_path / "set", per_class=2), tmp_path / "inner.zip")
    cut = tmp_path / "cut.zip"
    with zipfile.ZipFile(cut, "w") as archive:
        archive.writestr("good/a.png", b"x")
        archive.write(inner, "inner.zip")
    cut.write_bytes(cut.read_bytes()[:-60])
    with pytest.raises(BadDataset, match=r"cut\.zip is a damaged zip: .* cut short, .*Create it again\."):
        load_dataset(cut)


def test_a_zip_whose_directory_can_not_be_read_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good/\u00e4.png", b"x")
    data = path.read_bytes()
    entry = data.rindex(b"PK\x01\x02")  # the version that is needed to read it is 6 bytes further
    for broken in (
        data[: entry + 6] + b"\x63" + data[entry + 7 :],
        data[:entry] + data[entry:].replace("\u00e4".encode(), b"\xff\xff"),
    ):
        path.write_bytes(broken)
        with pytest.raises(BadDataset, match="damaged zip"):
            load_dataset(path)


@pytest.mark.parametrize("name", ["../out.png", "/etc/x.png", "a/../../b.png", "C:/x.png", "..\\x.png"])
def test_a_zip_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(BadDataset, match="leads outside"):
        load_dataset(tmp_path / "set.zip")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("source,labels\na.png,good\n", r"begins with 'source,labels', but should begin with 'filename,labels'"),
        ("filename,labels\nz.png,good\n", r"line 2: file 'z.png' does not exist"),
        ("filename,labels\na.png,good\na.png,no cap\n", "line 3: file 'a.png' is listed twice"),
        ("filename,labels\na.png,\n", "no labeled images: .*1 row without a label .* Write `good` where no defect"),
        ("filename,labels\na.png,[]\n", "line 2: no label: write `good` where no defect applies"),
        ("filename,labels\na.png,C++\n", r"line 2: 'C\+\+' can't be a label: `\+` joins the labels of a folder"),
        (f"filename,labels\na.png,{'x' * 65}\n", "line 2: the label 'x{20}'… has 65 characters, but may have 64"),
        ("filename,labels\na.png, | \n", "line 2: no label: write `good`"),
        ("filename,labels\na.png,no cap|\n", "line 2: an empty label beside others: remove it"),
        ("filename,labels\na.png,good|no cap\n", "`good` stands beside 'no cap'"),
        ("filename,labels\na.png\n", "line 2: should be `filename,labels`"),
        ("filename,labels\n", "has no labeled images"),
        ("filename,weight\na.png,3\n", r"begins with 'filename,weight', .*'filename,labels,camera'"),
        ("filename,labels,camera\na.png,good\n", "line 2: should be `filename,labels,camera`"),
        ("filename,labels,camera\na.png,good,top left\n", "line 2: 'top left' can't be a camera's name"),
        ("filename,labels\na.png,no cap+pigmented\n", r"line 2: 'no cap\+pigmented' can't be a label: `\+` joins"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, table: str, message: str) -> None:
    write_labeled(tmp_path, ROWS)
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(BadDataset, match=message):
        load_dataset(tmp_path)


@pytest.mark.parametrize("labels", [[], [" "], " | "])
def test_no_label_in_jsonl_is_named(tmp_path: Path, labels: object) -> None:
    write_labeled(tmp_path, ROWS)
    (tmp_path / "labels.csv").unlink()
    (tmp_path / "labels.jsonl").write_text(json.dumps({"filename": "a.png", "labels": labels}))
    with pytest.raises(BadDataset, match="line 1: no label: write `good` where no defect applies"):
        load_dataset(tmp_path)


def test_held_out_files_are_marked(tmp_path: Path) -> None:
    write_labeled(tmp_path, ROWS)
    (tmp_path / "held_out.txt").write_text("# for streaming\nb.png # two defects\n\n")
    assert [sample.name for sample in load_dataset(tmp_path).samples if sample.held_out] == ["b.png"]
    (tmp_path / "held_out.txt").write_text("y.png\n")
    with pytest.raises(BadDataset, match=r"names 'y\.png'"):
        load_dataset(tmp_path)


def test_unreadable_files_are_listed_and_not_fatal(tmp_path: Path) -> None:
    dataset = load_dataset(write_class_folders(tmp_path / "set", per_class=2))
    (tmp_path / "set" / "good" / "000.png").write_bytes(b"no image at all")
    pictures = _decode(dataset)
    assert [item.name for item in pictures.unreadable] == ["good/000.png"]
    assert "not an accepted image" in pictures.unreadable[0].reason
    assert len(pictures.images) == len(pictures.samples) == 5
    with pytest.raises(BadDataset, match="class 'good' has 1 usable"):
        check_trainable(dataset, pictures.samples, "single")


def test_at_least_two_usable_classes_are_needed(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "set", per_class=2)
    (tmp_path / "set" / "empty").mkdir()
    with_empty = load_dataset(tmp_path / "set")
    with pytest.raises(BadDataset, match="class 'empty' has 0 usable"):
        check_trainable(with_empty, with_empty.samples, "single")
    good = load_dataset(write_folders(tmp_path / "good", "good"))
    with pytest.raises(BadDataset, match="at least two"):
        check_trainable(good, good.samples, "single")


def test_multi_needs_bottles_without_each_defect(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "set", per_class=2)
    dataset = load_dataset(folder)
    check_trainable(dataset, dataset.samples, "multi")
    one_good = [sample for sample in dataset.samples if sample.name != "good/000.png"]
    with pytest.raises(BadDataset, match="class 'good' has 1 usable"):
        check_trainable(dataset, one_good, "multi")
    shutil.rmtree(folder / "good")
    without = load_dataset(folder)
    check_trainable(without, without.samples, "single")
    with pytest.raises(
        BadDataset, match=r"needs at least 2.*: 'no cap' 0, 'pigmented' 0\. .*folder `good/`.*labels\.csv"
    ):
        check_trainable(without, without.samples, "multi")
    (folder / "no cap+pigmented").mkdir()  # now each folder names all labels of its images
    (folder / "no cap+pigmented" / "0.png").write_bytes(picture("no cap", 7))
    joined = load_dataset(folder)
    check_trainable(joined, joined.samples, "multi")
    with pytest.raises(BadDataset, match=r"fewer for: 'pigmented' 1\. Add images without them"):
        check_trainable(joined, [one for one in joined.samples if one.name != "no cap/000.png"], "multi")


def test_the_fingerprint_depends_on_contents_and_labels(tmp_path: Path) -> None:
    first = write_labeled(tmp_path / "first", ROWS)
    renamed = write_labeled(tmp_path / "renamed", {f"x{name}": labels for name, labels in ROWS.items()})
    relabeled = write_labeled(tmp_path / "relabeled", ROWS)
    table = (relabeled / "labels.csv").read_text()
    (relabeled / "labels.csv").write_text(table.replace("d.png,no cap", "d.png,pigmented"))
    fingerprints = [_decode(load_dataset(folder)).fingerprint for folder in (first, renamed, relabeled)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_names_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    """Folder names are labels, and labels.csv, which is UTF-8, names files."""
    (tmp_path / "kein Dëckel").mkdir()
    for name in ("kein Dëckel/fläsche.jpg", "üben.jpg"):
        (tmp_path / name).write_bytes(b"bytes of " + name.encode())
    (tmp_path / "labels.csv").write_text(
        "filename,labels\nüben.jpg,good\nkein Dëckel/fläsche.jpg,kein Dëckel\n", "utf-8"
    )
    program = """
import sys
from pathlib import Path
from model_store.datasets.dataset import load_dataset
data = load_dataset(Path(sys.argv[1]))
for sample in data.samples:
    sys.stdout.buffer.write(data.files.read(sample.name) + f" {sample.labels[0]}\\n".encode())
"""
    printed = run_python(program, str(tmp_path), environment=ASCII_LOCALE)
    assert sorted(printed.splitlines()) == [
        "bytes of kein Dëckel/fläsche.jpg kein Dëckel",
        "bytes of üben.jpg good",
    ]
