"""What the audit of a dataset reports: balance, duplicates, contradictions, and images to leave out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

import sortline.cli
from model_store.bundle.policy import Mode
from model_store.datasets.audit import DatasetReport, audit_dataset
from model_store.datasets.dataset import load_dataset, training_mode
from model_store.datasets.image_loading import DecodeSettings, decode_samples
from model_store.datasets.splitting import split
from tests.kit import BOTTLES

SIZE_PX = 128


@pytest.fixture(autouse=True)
def plain_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shut out sortline.toml and environment variables, and use a separate cache."""
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
    monkeypatch.setenv("SORTLINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def frame(number: int, *, mirrored: bool = False, quality: int | None = None) -> bytes:
    """A bottle frame, unchanged, mirrored, or encoded again."""
    data = (BOTTLES / f"bottles_{number:03}.jpg").read_bytes()
    if quality is None and not mirrored:
        return data
    with Image.open(io.BytesIO(data)) as image:
        out = io.BytesIO()
        turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
        turned.save(out, "JPEG", quality=quality or 85)
    return out.getvalue()


def png_16(data: bytes, *, bits: int) -> bytes:
    """The frame in gray, with one white pixel, as a camera that gives this number of bits stores it."""
    with Image.open(io.BytesIO(data)) as image:
        gray = np.asarray(image.convert("L")).astype(np.uint16) << (bits - 8)
    gray[0, 0] = (1 << bits) - 1
    out = io.BytesIO()
    Image.fromarray(gray).save(out, "PNG")
    return out.getvalue()


def write(folder: Path, rows: Mapping[str, tuple[bytes, str]], *, held_out: tuple[str, ...] = ()) -> Path:
    """Files with their labels, and labels.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (data, _) in rows.items():
        (folder / name).write_bytes(data)
    lines = [f"{name},{labels}" for name, (_, labels) in rows.items()]
    (folder / "labels.csv").write_text("\n".join(["filename,labels", *lines]))
    (folder / "held_out.txt").write_text("\n".join(held_out))
    return folder


def write_folders(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def report_of(path: Path, *, mode: Mode | None = None) -> DatasetReport:
    dataset = load_dataset(path)
    usable, held_out = (
        decode_samples(
            dataset.files,
            [sample for sample in dataset.samples if sample.held_out is wanted],
            size_px=SIZE_PX,
            decode_settings=DecodeSettings(),
            on_progress=lambda _: None,
        )
        for wanted in (False, True)
    )
    return audit_dataset(dataset, usable, held_out=held_out, mode=training_mode(dataset, mode))


def shown(report: DatasetReport) -> str:
    console = Console(file=io.StringIO(), width=1000)
    report.show(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def bottles(count: int, *, start: int = 100) -> dict[str, tuple[bytes, str]]:
    """Different frames, half of them good."""
    return {
        f"{number}.jpg": (frame(number), "good" if number % 2 else "no cap") for number in range(start, start + count)
    }


def test_the_bottle_frames_give_no_warnings() -> None:
    report = report_of(BOTTLES)
    assert (report.images, report.held_out, report.mode, report.complete) == (320, 80, "multi", True)
    assert report.per_class == {"disfigured": 106, "good": 80, "no cap": 89, "no strip": 94, "pigmented": 92}
    assert sum(report.per_label_set.values()) == 320
    assert report.per_label_set["disfigured|no cap|no strip|pigmented"] == 2
    assert (report.groups, report.crowded, report.conflicts, report.excluded) == ((), (), (), ())
    assert report.warnings() == []
    assert "no duplicates, contradictions" in shown(report)


def test_imbalance_and_rare_classes_are_reported(tmp_path: Path) -> None:
    rows = {f"{number}.jpg": (frame(number), "good") for number in range(22)}
    rows |= {f"{number}.jpg": (frame(number), "no cap|[b]") for number in range(22, 27)}
    rows |= {f"{number}.jpg": (frame(number), "no cap") for number in range(27, 29)}
    report = report_of(write(tmp_path / "set", rows))
    assert report.imbalance == 4.4
    assert report.rare_classes == {"[b]": 5, "no cap": 7}
    assert report.per_label_set == {"[b]|no cap": 5, "good": 22, "no cap": 2}
    text = shown(report)
    assert "'good' has 4.4 times the images of '[b]'" in text
    assert "fewer than 20 images: '[b]' 5, 'no cap' 7" in text


def test_names_that_may_mean_the_same_are_told(tmp_path: Path) -> None:
    names = ("no cap", "NoCap", "good", "no  cap", "cap")
    rows = {f"{number}.jpg": (frame(number), names[number % 5]) for number in range(10)}
    text = shown(report_of(write(tmp_path / "set", rows)))
    assert "the names 'NoCap', 'no cap' differ only in case, blanks and signs." in text
    assert "'cap'," not in text.partition("the names")[2]


def test_lanes_that_classes_share_are_told(tmp_path: Path) -> None:
    names = ("cap !", "cap-!", "manual")
    rows = {f"{number}.jpg": (frame(number), names[number % 3]) for number in range(6)}
    text = shown(report_of(write(tmp_path / "set", rows)))
    assert "the lane 'cap-!' is for 'cap !' and 'cap-!'. Rename the classes, or give their lanes other names" in text
    assert "the lane 'manual' is for 'manual' and uncertain bottles" in text


def test_images_that_were_read_at_different_bits_are_told(tmp_path: Path) -> None:
    """A picture without a white spot at 12 bits may have one at 10."""
    rows = {f"{number}.png": (png_16(frame(number), bits=bits), "good") for number, bits in enumerate((12, 12, 10))}
    folder = write(tmp_path / "set", bottles(12) | rows)
    report = report_of(folder)
    assert report.images_by_sample_bits == {10: 1, 12: 2}
    assert "at different numbers of bits: 10 bits 1, 12 bits 2. If one camera took them, set" in shown(report)
    assert "bits" not in shown(report_of(write(tmp_path / "other", bottles(12))))


def test_cameras_are_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", bottles(4))
    lines = ["filename,labels,camera", "100.jpg,no cap,top", "101.jpg,good,top", "102.jpg,no cap,side", "103.jpg,good,"]
    (folder / "labels.csv").write_text("\n".join(lines))
    assert report_of(folder).per_camera == {"side": 1, "top": 2}


def test_copies_with_the_same_labels_stay_together(tmp_path: Path) -> None:
    rows = bottles(40)
    copies = {"same.jpg": (frame(101), "good"), "flip.jpg": (frame(101, mirrored=True), "good")}
    copies |= {"small.jpg": (frame(110, quality=40), "no cap")}
    folder = write(tmp_path / "set", rows | copies)
    report = report_of(folder)
    assert {frozenset(group) for group in report.groups} == {
        frozenset({"101.jpg", "same.jpg", "flip.jpg"}),
        frozenset({"110.jpg", "small.jpg"}),
    }
    assert {(one.first, one.second, one.kind, one.turn) for one in report.duplicates} == {
        ("101.jpg", "same.jpg", "identical", "as it is"),
        ("101.jpg", "flip.jpg", "copy", "mirrored"),
        ("110.jpg", "small.jpg", "copy", "as it is"),
    }
    assert (report.conflicts, report.excluded) == ((), ())
    assert "5 images show only 2 photographs: 101.jpg = flip.jpg (copy, mirrored)" in shown(report)
    samples = load_dataset(folder).samples
    groups = report.groups_of(samples)
    assert len(set(groups)) == len(samples) - 3
    for seed in range(20):
        chosen = split([sample.labels for sample in samples], seed=seed, groups=groups)
        trained = {samples[index].name for index in chosen.train}
        for group in report.groups:
            assert trained.issuperset(group) or trained.isdisjoint(group)


def test_contradictions_are_named_and_left_out(tmp_path: Path) -> None:
    rows = bottles(30)
    rows |= {"again.jpg": (frame(101), "no cap"), "third.jpg": (frame(101), "good")}
    rows |= {"flip.jpg": (frame(105, mirrored=True), "no cap|pigmented")}
    report = report_of(write(tmp_path / "set", rows))
    assert [(one.kind, one.excluded, one.labels) for one in report.conflicts] == [
        ("identical", True, {"101.jpg": ("good",), "again.jpg": ("no cap",), "third.jpg": ("good",)}),
        ("copy", True, {"105.jpg": ("good",), "flip.jpg": ("no cap", "pigmented")}),
    ]
    assert report.excluded == ("101.jpg", "105.jpg", "again.jpg", "flip.jpg", "third.jpg")
    text = shown(report)
    assert "not trained on: 101.jpg is good but again.jpg is no cap (1 more of the same picture); 105.jpg is" in text
    assert "flip.jpg is no cap|pigmented" in text


def test_lookalikes_with_other_labels_are_named_and_kept(tmp_path: Path) -> None:
    rows = bottles(30)
    with Image.open(io.BytesIO(frame(101))) as image:
        small = image.resize((image.width * 2 // 5, image.height * 2 // 5))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=60)
    rows |= {"alike.jpg": (out.getvalue(), "no cap")}
    report = report_of(write(tmp_path / "set", rows))
    assert [(one.kind, one.excluded, set(one.labels)) for one in report.conflicts] == [
        ("alike", False, {"101.jpg", "alike.jpg"})
    ]
    assert report.excluded == ()
    assert report.groups == (("101.jpg", "alike.jpg"),)
    assert "contradictory labels, kept; please check them: 101.jpg is good but alike.jpg is no cap" in shown(report)


def test_copies_of_held_out_images_are_left_out(tmp_path: Path) -> None:
    rows = bottles(30) | {
        "copy.jpg": (frame(100, quality=50), "no cap"),
        "test.jpg": (frame(103, mirrored=True), "good"),
    }
    report = report_of(write(tmp_path / "set", rows, held_out=("100.jpg", "test.jpg", "120.jpg")))
    assert report.held_out_copies == {"copy.jpg": "100.jpg", "103.jpg": "test.jpg"}
    assert report.excluded == ("103.jpg", "copy.jpg")
    assert "the same photograph is held out: 103.jpg = test.jpg; copy.jpg = 100.jpg" in shown(report)
    contradicting = rows | {"copy.jpg": (frame(100, quality=50), "good")}
    report = report_of(write(tmp_path / "other", contradicting, held_out=("100.jpg",)))
    assert len(report.conflicts) == 1
    assert report.excluded == ("copy.jpg",)  # held-out images are not trained on in any case


@pytest.mark.parametrize(
    ("other", "mode", "conflicts"),
    [
        ("disfigured", "multi", 0),  # then the bottle has both defects
        ("disfigured", "single", 1),
        ("good", "multi", 1),
        ("disfigured+no cap", "multi", 1),  # a folder that joins labels names all labels of its images
    ],
)
def test_an_image_in_two_folders_is_a_contradiction_only_if_their_labels_exclude_each_other(
    tmp_path: Path, other: str, mode: Mode, conflicts: int
) -> None:
    files = {f"no cap/{number}.jpg": frame(number) for number in range(100, 110)}
    files |= {f"{other}/{number}.jpg": frame(number) for number in (100, 120, 121)}
    report = report_of(write_folders(tmp_path / "set", files), mode=mode)
    assert len(report.conflicts) == conflicts
    assert report.excluded == (() if not conflicts else tuple(sorted((f"{other}/100.jpg", "no cap/100.jpg"))))
    assert len(report.groups) == 1
    unknown = mode == "multi" and "+" not in other
    assert ("it is unknown which other defects" in shown(report)) is unknown


def test_unusable_files_are_listed(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", bottles(12) | {f"{number}.png": (b"no image", "good") for number in range(7)})
    (folder / "forgotten.jpg").write_bytes(frame(3))
    report = report_of(folder)
    assert [item.file for item in report.unreadable] == [f"{number}.png" for number in range(7)]
    assert report.unlabelled == ("forgotten.jpg",)
    text = shown(report)
    assert "not used: 0.png and 6 more (not an accepted image" in text and "1.png" not in text
    assert "images without a label, not used: forgotten.jpg" in text


def test_a_file_that_ends_too_early_is_told_in_words_that_fit_a_dataset(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", bottles(12) | {"cut.jpg": (frame(1)[:9], "good")})
    assert "cut.jpg (this JPEG ends too early, after 9 bytes: was the file written completely?)" in shown(
        report_of(folder)
    )
    (folder / "cut.jpg").write_bytes(b"no image")
    text = shown(report_of(folder))
    assert "cut.jpg (not an accepted image but " in text and ".)" not in text and "send" not in text


def test_lanes_are_told_and_odd_characters_in_them_are_warned_of(tmp_path: Path) -> None:
    rows = {f"{number}.jpg": (frame(number), "good") for number in range(100, 104)}
    plain = report_of(write(tmp_path / "plain", rows | {f"{n}.jpg": (frame(n), "no cap") for n in range(104, 108)}))
    assert "lanes: good, no-cap\n" in shown(plain)
    assert "other characters" not in shown(plain)
    odd = report_of(write(tmp_path / "odd", rows | {f"{n}.jpg": (frame(n), "crushed & bent") for n in range(104, 108)}))
    assert "lanes: crushed-&-bent, good\n" in shown(odd)
    assert "other characters than letters, digits, `-` and `_`: crushed-&-bent. " in shown(odd)


def test_a_report_survives_json(tmp_path: Path) -> None:
    rows = bottles(10) | {"again.jpg": (frame(101), "no cap")}
    report = report_of(write(tmp_path / "set", rows, held_out=("100.jpg",)))
    assert DatasetReport.model_validate_json(report.model_dump_json()) == report


def test_names_are_printable_in_json_and_in_text(tmp_path: Path) -> None:
    folder = write_folders(
        tmp_path / "set",
        {
            "good/bro\nken.png": b"not an image",
            "out\nside.png": frame(100),
            "good/original\n.jpg": frame(101),
            "good/co\npy.jpg": frame(101),
            "no cap/one\n.jpg": frame(102),
            "good/other\n.jpg": frame(102),
        },
    )
    done = run(str(folder), "--json")
    report = json.loads(done.stdout)
    assert "\n" not in "".join(strings_in(report))
    assert report["unreadable"][0]["file"] == r"good/bro\nken.png"
    assert report["unlabelled"] == [r"out\nside.png"]
    assert report["excluded"] == [r"good/other\n.jpg", r"no cap/one\n.jpg"]
    assert r"good/bro\nken.png" in run(str(folder)).stdout


def strings_in(value: object) -> Iterator[str]:
    """All texts in a JSON value, keys included."""
    match value:
        case str():
            yield value
        case dict():
            yield from (text for item in value.items() for part in item for text in strings_in(part))
        case list():
            yield from (text for item in value for text in strings_in(item))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(sortline.cli.app, ["models", "check-dataset", *arguments])


def test_the_command_prints_the_same_report(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", bottles(20) | {"again.jpg": (frame(101), "no cap")}, held_out=("100.jpg",))
    done = run(str(folder), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == report_of(folder).model_dump(mode="json")
    done = run(str(folder))
    assert done.exit_code == 0
    assert "20 images to learn from (single), 1 held out" in done.stdout
    assert "contradictory labels" in done.stdout


def test_the_command_fails_where_training_would(tmp_path: Path) -> None:
    rows = {f"{number}.jpg": (frame(number), "good") for number in range(10)}
    rows |= {"a.jpg": (frame(20), "no cap"), "b.jpg": (frame(21), "no cap"), "again.jpg": (frame(21), "good")}
    done = run(str(write(tmp_path / "set", rows)))
    assert done.exit_code == 1
    assert "class 'no cap' has 1 usable" in str(done.exception)
    assert "b.jpg is no cap" in done.stdout  # why it has only one
    files = {
        f"{name}/{number}.jpg": frame(number)
        for name, start in (("a", 0), ("b", 9))
        for number in range(start, start + 9)
    }
    folders = str(write_folders(tmp_path / "folders", files))
    assert run(folders, "--mode", "single").exit_code == 0
    done = run(folders, "--mode", "multi")
    assert done.exit_code == 1
    assert "'a' 0, 'b' 0. Folders with one label each" in str(done.exception)
    done = run(str(write(tmp_path / "several", {"a.jpg": (frame(1), "no cap|pigmented")})), "--mode", "single")
    assert done.exit_code == 1
    assert "Use --mode multi" in str(done.exception)
