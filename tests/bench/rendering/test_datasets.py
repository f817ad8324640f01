"""The folders that `sortline bench render-pairs` writes, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner, Result

import sortline.cli
from bench import commands
from bench.rendering import datasets
from bench.rendering.datasets import PARTS, frame_choices
from bench.rendering.domains import DEFECT_PROBABILITY, PAIRS
from bench.rendering.scenes import DEFECTS, pick_defects
from model_store.datasets.dataset import load_dataset
from shared.errors import BadSetting


def render(out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(sortline.cli.app, ["bench", "render-pairs", str(out), *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_however_many_frames(tmp_path: Path) -> None:
    for name, learn, seed in (("few", 1, 5), ("again", 1, 5), ("more", 2, 5), ("other", 1, 6)):
        done = render(tmp_path / name, "--pairs", "belt", "--learn", str(learn), "--judge", "1", "--seed", str(seed))
        assert done.exit_code == 0, done.output
    few, again, more, other = (contents(tmp_path / name) for name in ("few", "again", "more", "other"))
    assert sorted(few) == [
        "belt/judge/belt_judge_0000.jpg",
        "belt/judge/labels.csv",
        "belt/learn/belt_learn_0000.jpg",
        "belt/learn/labels.csv",
    ]
    assert few == again
    assert {name: data for name, data in few.items() if name.endswith("jpg")}.items() <= more.items()
    assert few["belt/learn/belt_learn_0000.jpg"] != other["belt/learn/belt_learn_0000.jpg"]


def test_a_mixed_dataset_shows_all_domains_in_turn_and_no_frame_of_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(datasets, "draw_frame", lambda domain, *_: shown.append(domain) or b"not looked at")
    done = render(tmp_path / "out", "--mixed", "14", "--pairs", "light,belt", "--json")
    assert done.exit_code == 0, done.output
    domains = [PAIRS["light"].learn, PAIRS["light"].judge, PAIRS["belt"].learn, PAIRS["belt"].judge]
    assert shown == (domains * 4)[:14]
    written = json.loads(done.stdout)["mixed"]
    samples = load_dataset(tmp_path / "out").samples
    assert len(samples) == written["frames"] == 14
    assert Counter(label for sample in samples for label in sample.labels) == written["labels"]
    names = ["mixed", *(f"{pair}/{part}" for pair in PAIRS for part in PARTS)]
    assert len({str(frame_choices(name, 0, seed=17).between((0, 1))) for name in names}) == len(names)
    assert "rendered" in render(tmp_path / "table", "--mixed", "2").stdout


def test_the_folders_load_as_datasets_with_the_labels_that_json_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "draw_frame", lambda *_: b"not looked at")
    done = render(tmp_path / "out", "--learn", "60", "--judge", "50", "--json")
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)
    assert written["seed"] == 17
    assert list(written["pairs"]) == list(PAIRS)
    for parts in written["pairs"].values():
        for part, count in zip(PARTS, (60, 50), strict=True):
            samples = load_dataset(Path(parts[part]["folder"])).samples
            assert len(samples) == parts[part]["frames"] == count
            assert Counter(label for sample in samples for label in sample.labels) == parts[part]["labels"]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("part", "count"), [("learn", 340), ("judge", 420)])
def test_by_default_every_set_of_labels_occurs(pair: str, part: str, count: int) -> None:
    found = Counter(
        pick_defects(frame_choices(f"{pair}/{part}", index, seed=17).stream("defects")) for index in range(count)
    )
    assert len(found) == 2 ** len(DEFECTS)
    for defect in DEFECTS:
        share = sum(times for defects, times in found.items() if defect in defects) / count
        assert abs(share - DEFECT_PROBABILITY) < 0.08, defect


def test_the_defaults_are_those_that_the_tests_above_take() -> None:
    parameters = typer.main.get_command(sortline.cli.app).commands["bench"]  # type: ignore[attr-defined]
    context = parameters.make_context("bench", ["render-pairs", "out"])
    assert context.command.name == "render-pairs"
    assert {name: context.params[name] for name in ("pairs", "seed")} == {"pairs": ",".join(PAIRS), "seed": 17}


def test_without_counts_a_pair_has_those_that_the_tests_above_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "draw_frame", lambda *_: b"not looked at")
    done = render(tmp_path / "out", "--pairs", "belt", "--json")
    parts = json.loads(done.stdout)["pairs"]["belt"]
    assert (parts["learn"]["frames"], parts["judge"]["frames"]) == (340, 420)


@pytest.mark.parametrize("flag", ["--learn", "--judge"])
def test_counts_of_pairs_are_refused_for_a_mixed_dataset(tmp_path: Path, flag: str) -> None:
    done = render(tmp_path / "out", "--mixed", "2", flag, "5")
    assert isinstance(done.exception, BadSetting)
    assert f"{flag} 5 is for pairs" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = render(tmp_path, "--learn", "1", "--judge", "1")
    assert done.exit_code != 0
    assert "is not empty" in str(done.exception)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


@pytest.mark.parametrize("pairs", ["belt,lights", "", "belt,,light"])
def test_unknown_pairs_are_refused_before_anything_is_written(tmp_path: Path, pairs: str) -> None:
    done = render(tmp_path / "out", "--pairs", pairs)
    assert done.exit_code != 0
    assert "no pair" in str(done.exception)
    assert "belt, light, camera" in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--learn", "--judge"])
def test_a_count_of_zero_is_refused(tmp_path: Path, option: str) -> None:
    done = render(tmp_path / "out", option, "0")
    assert done.exit_code == 2
    assert option in done.output


def test_its_help_has_an_example_and_bench_names_it() -> None:
    help_text = CliRunner().invoke(sortline.cli.app, ["bench", "render-pairs", "--help"]).output
    assert "Example: sortline bench render-pairs" in help_text
    assert "render-pairs" in CliRunner().invoke(sortline.cli.app, ["bench", "--help"]).output
    assert commands.RENDER_PAIRS not in commands.BENCHMARKS
