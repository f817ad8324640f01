"""The file of golden images: its contents, and the files that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_store.bundle.files import open_bundle
from model_store.bundle.golden import Golden, read_golden, write_golden
from model_store.bundle.manifest import GOLDEN_FILE
from shared.errors import BadBundle


def test_golden_shapes(tiny_bundle: Path) -> None:
    images, float32, int8 = read_golden(open_bundle(tiny_bundle))
    assert images.dtype == np.uint8
    assert images.shape[1:] == (32, 32, 3)
    assert float32.shape == int8.shape == (len(images), 3)
    assert len(images) >= 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: g._replace(images=g.images[:, :16]),
        lambda g: g._replace(images=g.images.astype(np.float32)),
        lambda g: g._replace(images=g.images[:0], float32=g.float32[:0], int8=g.int8[:0]),
        lambda g: g._replace(float32=g.float32[:, :2]),
        lambda g: g._replace(int8=g.int8[1:]),
    ],
    ids=["size", "type", "none", "classes", "count"],
)
def test_golden_of_the_wrong_shape_is_refused(copied: Path, spoil: Callable[[Golden], Golden]) -> None:
    bundle = open_bundle(copied)
    write_golden(copied, spoil(read_golden(bundle)))
    with pytest.raises(BadBundle, match=GOLDEN_FILE):
        read_golden(bundle)


def test_golden_that_is_not_an_archive_or_holds_objects_is_refused(copied: Path) -> None:
    bundle = open_bundle(copied)
    (copied / GOLDEN_FILE).write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(BadBundle, match="can't be read"):
        read_golden(bundle)
    np.savez(copied / GOLDEN_FILE, images=np.array([{}], dtype=object))
    with pytest.raises(BadBundle, match="can't be read"):
        read_golden(bundle)
