"""`sortline classify`: the files that it writes, and the model that it uses if none is named."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from model_store.bundle.policy import Decision
from model_store.bundle.preprocessing import ImageDecoder
from model_store.commands import add_to
from model_store.evaluation.classify import Classified
from model_store.registry.store import ModelStore, copy_bundle
from model_store.reports import classified_output, image_grids
from model_store.reports.image_grids import GridCell, draw_cells
from shared import file_walk
from shared.errors import BadInput, BadSetting, NotFound
from tests.irregular_files import make_irregular_files, make_sparse_file

pytestmark = pytest.mark.usefixtures("plain_settings")
# Names that HTML must escape, and names beyond ASCII.
NAMES = ("a & <b>.png", "ünïcödé 图像.png", "c.png")


@pytest.fixture
def store(tmp_path: Path, tiny_bundle: Path) -> ModelStore:
    store = ModelStore(tmp_path / "models")
    store.publish("caps", copy_bundle(tiny_bundle, "caps"))
    return store


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three pictures of different colors, and a file that is not a picture."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, color in zip(NAMES, ((250, 10, 10), (10, 250, 10), (10, 10, 250)), strict=True):
        out = io.BytesIO()
        Image.fromarray(np.full((20, 40, 3), color, np.uint8)).save(out, "PNG")
        (folder / name).write_bytes(out.getvalue())
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def decoder_of_eight_px() -> ImageDecoder:
    limits = {"max_bytes": 10_000, "max_px": 1_000, "max_decode_bytes": 1 << 20}
    return ImageDecoder(8, "stretch", (), **limits, max_decode_s=1)


def classify(store: ModelStore, *arguments: object, as_json: bool = True) -> Result:
    app = typer.Typer()
    add_to(app)
    flags = ["--model-store", store.root, "--engine", "litert", *(["--json"] if as_json else [])]
    return CliRunner().invoke(app, ["classify", *map(str, [*arguments, *flags])])


def test_answers_as_csv_page_and_picture(store: ModelStore, images: Path, tmp_path: Path) -> None:
    out, html, grid = (tmp_path / name for name in ("answers.csv", "answers.html", "answers.png"))
    result = classify(store, images, "--out", out, "--html", html, "--grid", grid)
    assert result.exit_code == 1, result.output  # one is broken
    answers = {item["file"]: item for item in json.loads(classify(store, images, "--json").stdout)["images"]}
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["file"]).name for row in rows} == {*NAMES, "broken.png"}
    for row in rows:
        assert bool(row["error"]) == row["file"].endswith("broken.png")
        assert bool(row["labels"]) == bool(row["lane"]) == (row["uncertain"] in ("true", "false")) == (not row["error"])
        assert list(row) == ["file", "labels", "probability", "lane", "uncertain", "error"]  # as in `results --csv`
        assert row["probability"] == "|".join(str(item["probability"]) for item in answers[row["file"]]["labels"])
    page = html.read_text(encoding="utf-8")
    assert "caps@1 (litert): 4 images" in page
    assert "a &amp; &lt;b&gt;.png" in page
    assert page.count("data:image/jpeg;base64,") == 4
    assert page.count("not classified") == 1
    with Image.open(grid) as picture:
        assert picture.format == "PNG"
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(250, 10, 10), (10, 250, 10), (10, 10, 250)} <= colors


def test_only_the_first_images_are_drawn(
    store: ModelStore, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classified_output, "MAX_SHOWN", 2)
    html = tmp_path / "answers.html"
    classify(store, images, "--html", html)
    page = html.read_text(encoding="utf-8")
    assert "the first 2 of 4 images" in page
    assert page.count("data:image/jpeg;base64,") == 2


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The title and the cells of the last grid that was drawn."""
    last: dict[str, Any] = {}

    def draw(path: Path, cells: list[GridCell], *, title: str) -> None:
        draw_cells(path, cells, title=title)
        last.update(cells=cells, title=title)

    monkeypatch.setattr(classified_output, "draw_cells", draw)
    return last


def write_answers(folder: Path, lanes: list[str]) -> list[Classified]:
    """Images of one color in two folders, with an answer each."""
    answers = []
    for index, lane in enumerate(lanes):
        path = folder / ("a" if index < len(lanes) / 2 else "b") / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), index % 256, np.uint8)).save(path)
        answers.append(Classified(path, Decision((("cup", 0.75),), lane, uncertain=index == 0)))
    return answers


def test_a_grid_of_many_images_stays_readable(store: ModelStore, tmp_path: Path, drawn: dict[str, Any]) -> None:
    answers, decoder = write_answers(tmp_path / "set", ["unsorted"] * 400), decoder_of_eight_px()
    write_grid = classified_output.write_grid
    write_grid(tmp_path / "grid.png", answers, model="imagenet@1 (litert)", decoder=decoder)
    assert drawn["title"] == "Predictions of imagenet@1 (litert): 36 of 400 images shown, evenly spread; lane: unsorted"
    cells = drawn["cells"]
    assert [cell.name for cell in (cells[0], cells[-1])] == ["a/000.png", "b/399.png"]
    assert len({cell.name for cell in cells}) == 36
    assert sum(cell.name.startswith("a/") for cell in cells) == 18
    assert {cell.texts for cell in cells} == {("cup 0.75",)}
    assert [cell.verdict for cell in cells] == ["uncertain"] + 35 * [""]
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width < 1100
        assert picture.height < 1400
    write_grid(tmp_path / "grid.png", answers[:1], model="imagenet@1 (litert)", decoder=decoder)
    assert drawn["title"] == "Predictions of imagenet@1 (litert): 1 image; lane: unsorted"


def test_no_color_of_a_grid_stands_for_right_or_wrong(tmp_path: Path, drawn: dict[str, Any]) -> None:
    answers = write_answers(tmp_path / "set", ["unsorted"] * 2)
    classified_output.write_grid(tmp_path / "grid.png", answers, model="m@1", decoder=decoder_of_eight_px())
    assert not {cell.color for cell in drawn["cells"]} & {image_grids._COLORS["right"], image_grids._COLORS["wrong"]}


def test_each_image_of_a_grid_names_its_lane_if_there_are_several(tmp_path: Path, drawn: dict[str, Any]) -> None:
    answers = write_answers(tmp_path / "set", ["left", "right"])
    answers.append(Classified(Path("elsewhere.png"), error="no picture"))
    classified_output.write_grid(tmp_path / "grid.png", answers, model="m@1", decoder=decoder_of_eight_px())
    assert drawn["title"] == "Predictions of m@1: 3 images"
    assert [cell.texts[-1] for cell in drawn["cells"]] == ["lane: left", "lane: right", "no picture"]
    # No folder holds all of them.
    assert [cell.name for cell in drawn["cells"]] == [str(answer.path) for answer in answers]


def test_a_name_that_cannot_be_printed_is_written_in_codes(tmp_path: Path) -> None:
    path = tmp_path / b"latin1_\xfc\n\x1b.png".decode(errors="surrogateescape")
    answers = [Classified(path, error="no\npicture")]
    decoder = decoder_of_eight_px()
    classified_output.write_csv(tmp_path / "a.csv", answers)
    classified_output.write_html(tmp_path / "a.html", answers, model="caps@1", decoder=decoder)
    classified_output.write_grid(tmp_path / "a.png", answers, model="caps@1", decoder=decoder)
    assert r"latin1_\xfc\n\x1b.png,,,,," in (tmp_path / "a.csv").read_text()
    assert r"latin1_\xfc\n\x1b.png" in (tmp_path / "a.html").read_text()


def test_names_are_printed_in_one_form(store: ModelStore, images: Path) -> None:
    odd = images / b"latin1_\xfc\n.png".decode(errors="surrogateescape")
    (images / "c.png").rename(odd)
    assert r"latin1_\xfc\n.png" in json.loads(classify(store, odd).stdout)["images"][0]["file"]
    assert r"latin1_\xfc\n.png  " in classify(store, odd, as_json=False).stdout


@pytest.mark.parametrize("flag", ["--out", "--html", "--grid"])
def test_an_output_that_cannot_be_written_is_found_first(store: ModelStore, flag: str, tmp_path: Path) -> None:
    failed = classify(store, tmp_path, flag, tmp_path / "no" / "such" / "folder", "--model", "nosuch").exception
    assert isinstance(failed, BadSetting)
    assert f"{flag} {tmp_path}/no/such/folder can't be written: No such file or directory" in str(failed)


@pytest.mark.parametrize("flag", ["--out", "--html", "--grid"])
def test_an_image_that_is_classified_is_not_overwritten(store: ModelStore, images: Path, flag: str) -> None:
    before = (images / NAMES[0]).read_bytes()
    assert isinstance(classify(store, images, flag, images / NAMES[0]).exception, BadSetting)
    assert (images / NAMES[0]).read_bytes() == before


@pytest.mark.parametrize("name", ["answers.jpg", "answers.txt", "answers"])
def test_the_picture_is_not_written_under_the_name_of_another_format(
    store: ModelStore, images: Path, tmp_path: Path, name: str
) -> None:
    failed = classify(store, images, "--grid", tmp_path / name).exception
    assert isinstance(failed, BadSetting)
    assert f"--grid {tmp_path / name} would be a PNG under another name." in str(failed)
    assert not (tmp_path / name).exists()


def test_of_several_models_one_has_to_be_named(store: ModelStore, images: Path, tiny_bundle: Path) -> None:
    store.publish("tops", copy_bundle(tiny_bundle, "tops"))
    failed = classify(store, images).exception
    assert isinstance(failed, NotFound)
    assert "--model caps, --model tops" in str(failed)
    assert classify(store, images / NAMES[0], "--model", "tops").exit_code == 0


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
def test_what_is_no_regular_file_is_named_and_the_others_are_classified(
    store: ModelStore, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    reasons = make_irregular_files(images)
    make_sparse_file(images / "sparse.jpg")
    reasons["sparse.jpg"] = "not an accepted image"
    (images / "broken.png").unlink()
    result = classify(store, images)
    assert result.exit_code == 1
    found = {Path(item["file"]).name: item["error"] for item in json.loads(result.stdout)["images"]}
    assert {name for name, error in found.items() if error is None} == set(NAMES)
    for name, reason in reasons.items():
        assert reason in found[name]
    alone = classify(store, images / "fifo.jpg")
    assert (alone.exit_code, "not a regular file" in alone.stdout) == (1, True)


def test_of_a_large_file_only_enough_to_refuse_it_is_read(
    store: ModelStore, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORTLINE_MAX_IMAGE_BYTES", "50")
    (image,) = json.loads(classify(store, images / "c.png").stdout)["images"]
    assert image["error"] == "51 bytes, the limit is 50 (max_image_bytes)."


def test_previews_that_the_system_made_are_left_out_and_counted(store: ModelStore, images: Path) -> None:
    alone = classify(store, images)
    (images / "@eaDir").mkdir()
    for name in ("@eaDir/a.png", ".b.png"):
        (images / name).write_bytes((images / NAMES[0]).read_bytes())
    result = classify(store, images)
    assert json.loads(result.stdout) == json.loads(alone.stdout)
    told = "hidden files, and those of the system, left out: @eaDir 1, hidden (a name that begins with a dot) 1"
    assert f"{images}: {told}" in result.stderr
    assert "left out" not in alone.stderr


def test_a_folder_of_too_many_files_is_refused(
    store: ModelStore, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_walk, "MAX_LISTED", 2)
    failed = classify(store, images).exception
    assert isinstance(failed, BadInput)
    assert f"{images}: it holds 2 files and folders or more, and the rest is not listed; name its" in str(failed)
