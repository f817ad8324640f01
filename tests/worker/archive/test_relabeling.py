"""The program in docs/archive.md turns an archive into a dataset that training accepts."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from model_store.datasets.dataset import load_dataset
from shared.schemas import Label, Outcome
from tests.worker.archive.kit import AT, result_json
from tests.worker.kit import broken_picture, picture
from worker.archive.folder import ArchiveFolder

PAGE = Path(__file__).parents[3] / "docs" / "archive.md"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive of one day with images of all kinds, and what writers leave that are killed, or lose their power."""
    root = tmp_path / "archive"
    root.mkdir()
    archive = ArchiveFolder(root, max_bytes=10**9, host="plant.example")
    archive.prepare()
    no_cap, disfigured = Label(label="no cap", probability=0.9), Label(label="disfigured", probability=0.8)
    archive.write(picture(1), result_json("a", finished_at=AT, labels=(no_cap, disfigured)))
    archive.write(picture(2), result_json("b", finished_at=AT, labels=(no_cap,), line="l2"))
    archive.write(picture(3), result_json("c", finished_at=AT, outcome=Outcome.EXPIRED))
    archive.write(broken_picture(), result_json("d", finished_at=AT, outcome=Outcome.REJECTED))
    archive.write(b"no image", result_json("e", finished_at=AT, outcome=Outcome.REJECTED))
    archive.write(picture(4), result_json("no-result", finished_at=AT))
    archive.write(picture(5), result_json("no-image", finished_at=AT))
    for name in ("no-result_plant.example.json", "no-image_plant.example.png"):
        next(root.glob(f"2*/l1/*{name}")).write_bytes(b"")
    for suffix, left in ((".json", b'{"job_id"'), (".png", picture()[:20])):
        (root / ".incoming" / f"093005.123_j1_plant.example{suffix}").write_bytes(left)
    return root


@pytest.mark.parametrize("part", ["the archive", "one of its days"])
def test_an_archive_becomes_a_dataset(root: Path, tmp_path: Path, part: str) -> None:
    dataset = tmp_path / "dataset"
    source = root if part == "the archive" else next(root.glob("2*"))
    program = re.search(r"^    # relabel\.py.*?(?=^\S)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert program is not None
    arguments = [sys.executable, "-c", textwrap.dedent(program[0]), str(source), str(dataset)]
    subprocess.run(arguments, check=True, timeout=60)
    table = dataset / "labels.csv"
    assert table.read_text().count("\n") == 4
    table.write_text(table.read_text().replace(",,", ",good,"))  # as a person would fill it in
    samples = load_dataset(dataset).samples
    assert sorted((sample.labels, sample.camera) for sample in samples) == [
        (("disfigured", "no cap"), "c1"),
        (("good",), "c1"),
        (("no cap",), "c1"),
    ]
