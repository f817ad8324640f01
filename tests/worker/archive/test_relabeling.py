"""The program in docs/archive.md turns an archive into a dataset that training accepts."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from model_store.datasets.dataset import load_dataset
from shared.schemas import Label, Outcome
from tests.worker.archive.kit import result_json
from tests.worker.kit import broken_picture, picture
from worker.archive.folder import ArchiveFolder

PAGE = Path(__file__).parents[3] / "docs" / "archive.md"


def test_an_archive_becomes_a_dataset(tmp_path: Path) -> None:
    root, dataset = tmp_path / "archive", tmp_path / "dataset"
    root.mkdir()
    archive = ArchiveFolder(root, max_bytes=10**9, host="plant.example")
    archive.prepare()
    no_cap, disfigured = Label(label="no cap", probability=0.9), Label(label="disfigured", probability=0.8)
    archive.write(picture(1), result_json("a", labels=(no_cap, disfigured)))
    archive.write(picture(2), result_json("b", labels=(no_cap,), line="l2"))
    archive.write(picture(3), result_json("c", outcome=Outcome.EXPIRED))
    archive.write(broken_picture(), result_json("d", outcome=Outcome.REJECTED))
    archive.write(b"no image", result_json("e", outcome=Outcome.REJECTED))
    program = re.search(r"^    # relabel\.py.*?(?=^\S)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert program is not None
    arguments = [sys.executable, "-c", textwrap.dedent(program[0]), str(root), str(dataset)]
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
