"""The digests of the images that a version was trained on: written with the version, compared later."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from model_store.bundle.training_digests import (
    TRAINING_DIGESTS_FILE,
    read_training_digests,
    short_digests,
    write_training_digests,
)
from model_store.evaluation.evaluate import seen_warning
from shared.errors import BadBundle


def digests(*texts: str) -> list[str]:
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def test_images_whose_digests_were_written_are_recognized(tmp_path: Path) -> None:
    write_training_digests(tmp_path, train=digests("a", "b", "c", "b"), validation=digests("d"))
    trained_on = read_training_digests(tmp_path)
    assert trained_on is not None
    assert trained_on.count_seen(digests("b", "d", "e")) == {"train": 1, "validation": 1}
    assert trained_on.count_seen(digests("e")) == {"train": 0, "validation": 0}
    assert trained_on.count_seen([]) == {"train": 0, "validation": 0}


def test_images_that_tuned_the_first_layers_count_as_training_images(tmp_path: Path) -> None:
    write_training_digests(
        tmp_path, train=digests("a"), validation=digests("b"), earlier=short_digests(digests("a", "b", "c"))
    )
    trained_on = read_training_digests(tmp_path)
    assert trained_on is not None
    assert trained_on.train.tolist() == sorted(trained_on.train.tolist()) and len(trained_on.train) == 3
    assert trained_on.count_seen(digests("a", "b", "c", "d")) == {"train": 3, "validation": 1}


def test_the_file_is_the_same_for_any_order_and_keeps_eight_bytes_an_image(tmp_path: Path) -> None:
    written = []
    for place, texts in (("one", "abc"), ("other", "cab")):
        (tmp_path / place).mkdir()
        write_training_digests(tmp_path / place, train=digests(*texts), validation=[])
        written.append((tmp_path / place / TRAINING_DIGESTS_FILE).read_bytes())
    assert written[0] == written[1]
    assert not any(bytes.fromhex(digest)[8:] in written[0] for digest in digests(*"abc"))


def test_a_missing_file_gives_none_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert read_training_digests(tmp_path) is None
    (tmp_path / TRAINING_DIGESTS_FILE).write_bytes(b"no zip")
    with pytest.raises(BadBundle, match=TRAINING_DIGESTS_FILE):
        read_training_digests(tmp_path)


def test_the_warning_counts_the_images() -> None:
    assert seen_warning(None, images=10) is None
    assert seen_warning({"train": 0, "validation": 0}, images=10) is None
    text = seen_warning({"train": 7, "validation": 2}, images=10)
    assert text is not None
    assert "10 images" in text and "trained on 7" in text and "validated on 2" in text
