"""Tables of labels that somebody made to take memory, or to end the command that reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.datasets.dataset_files import open_files
from model_store.datasets.label_tables import JSONL_FILE, LabelRow, read_rows
from shared.errors import BadDataset


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000])
def test_brackets_within_brackets_are_refused_with_the_line(tmp_path: Path, line: str) -> None:
    (tmp_path / JSONL_FILE).write_text(f'{{"filename": "a.png", "labels": "good"}}\n{line}\n')
    rows = read_rows(open_files(tmp_path), JSONL_FILE)
    assert next(rows) == (1, LabelRow("a.png", ["good"], None))
    with pytest.raises(BadDataset, match=r"labels\.jsonl, line 2 is not JSON"):
        next(rows)


def test_only_ends_of_lines_end_a_line(tmp_path: Path) -> None:
    lines = (f'{{"filename": "{name}.png", "labels": "good"}}' for name in ("a\u2028b", "c", "d"))
    (tmp_path / JSONL_FILE).write_bytes("\r\n".join(lines).encode())
    found = [(number, row.filename) for number, row in read_rows(open_files(tmp_path), JSONL_FILE)]
    assert found == [(1, "a\u2028b.png"), (2, "c.png"), (3, "d.png")]
