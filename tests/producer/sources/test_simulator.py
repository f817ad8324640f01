"""The simulator: same seed, same bytes; held-out frames only; the whole bottle in view; truth from outside."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from producer.sources.demo_dataset import BOTTLES, held_out_bottles, held_out_names
from producer.sources.simulator import SimulatedSource, _folded, _transformed, random_placement
from shared.errors import BadSetting
from tests.kit import run_python

HELD_OUT = 80


def digest(source: SimulatedSource, count: int) -> str:
    return hashlib.sha256(b"".join(source.frame(number).data for number in range(count))).hexdigest()


def test_the_held_out_frames_follow_their_rule() -> None:
    with (BOTTLES / "labels.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["labels"], row["filename"]))
    assert held_out_names() == sorted(row["filename"] for row in rows[2::5])
    assert len(held_out_names()) == HELD_OUT
    with Image.open(BOTTLES / "bottles_000.jpg") as image:
        assert image.size == (256, 256)


def test_every_bottle_has_its_labels_and_a_box_in_its_frame() -> None:
    with (BOTTLES / "labels.csv").open(newline="") as file:
        labels = {row["filename"]: row["labels"] for row in csv.DictReader(file)}
    for bottle in held_out_bottles():
        assert "|".join(sorted(bottle.truth)) == labels[bottle.path.name]
        assert 0 <= bottle.box.left < bottle.box.right <= 256
        assert 0 <= bottle.box.top < bottle.box.bottom <= 256


def test_the_same_seed_and_line_give_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from producer.sources.simulator import SimulatedSource as S; s = S('line-1', seed=5, pool=4);"
        "print(hashlib.sha256(b''.join(s.frame(i).data for i in range(6))).hexdigest())"
    )
    assert run_python(code).strip() == digest(SimulatedSource("line-1", seed=5, pool=4), 6)


def test_another_seed_line_or_drawing_gives_other_bytes() -> None:
    sources = [SimulatedSource("line-1", pool=2), SimulatedSource("line-1", seed=1), SimulatedSource("line-2")]
    assert len({source.frame(0).data for source in sources} | {sources[0].frame(1).data}) == 4


def test_the_pool_is_replayed_without_drawing_again() -> None:
    source = SimulatedSource("line-1", pool=3)
    assert list(source.draw_all()) == [0, 1, 2]
    assert source.frame(7) is source.frame(1)


def test_the_truth_needs_no_drawing_and_no_equal_size() -> None:
    source = SimulatedSource("line-1", seed=3, size=(64, 48), pool=200)
    checker = SimulatedSource("line-1", seed=3, pool=200)
    labels = {bottle.path.name: bottle.truth for bottle in held_out_bottles()}
    for number in (0, 1, 79, 80, 199, 200, 1234):
        frame = source.frame(number)
        assert frame.truth == checker.truth(number) == labels[frame.source_name]


def test_each_round_shows_every_held_out_frame_once_in_another_order() -> None:
    source = SimulatedSource("line-1", size=(32, 32), pool=2 * HELD_OUT)
    names = [source.frame(number).source_name for number in range(2 * HELD_OUT)]
    assert set(Counter(names[:HELD_OUT]).values()) == set(Counter(names[HELD_OUT:]).values()) == {1}
    assert sorted(names[:HELD_OUT]) == held_out_names()
    assert names[:HELD_OUT] != names[HELD_OUT:]


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (256, 256), (1920, 1080)])
def test_frames_have_the_size_asked_for(size: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(SimulatedSource("line-1", size=size).frame(0).data)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", size, "RGB")


def test_quality_is_the_jpegs() -> None:
    low, high = (len(SimulatedSource("line-1", quality=quality).frame(0).data) for quality in (30, 95))
    assert low < high / 2


@settings(max_examples=300, deadline=None)
@given(
    bottle=st.sampled_from(held_out_bottles()),
    seed=st.integers(0, 2**32),
    size=st.sampled_from([(640, 480), (480, 640), (1920, 1080), (224, 224)]),
)
def test_the_whole_bottle_stays_in_view(bottle, seed: int, size: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    placement = random_placement(bottle.box, (256, 256), size, np.random.default_rng(seed))
    for x in (bottle.box.left, bottle.box.right):
        for y in (bottle.box.top, bottle.box.bottom):
            at_x, at_y = placement.to_drawing(x, y)
            assert 0 <= at_x <= size[0]
            assert 0 <= at_y <= size[1]
            assert placement.to_source(at_x, at_y) == pytest.approx((x, y))


def test_the_drawing_puts_the_frame_where_the_placement_says() -> None:
    """A white bottle on a black belt: white is found exactly where the placement maps its box."""
    box = held_out_bottles()[0].box
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[box.top : box.bottom, box.left : box.right] = 255
    for seed in range(5):
        placement = random_placement(box, (256, 256), (640, 480), np.random.default_rng(seed))
        drawn = np.asarray(_transformed(Image.fromarray(pixels), box, placement, (640, 480)).convert("L"))
        rows, columns = np.nonzero(drawn > 127)
        source = np.array([placement.to_source(x + 0.5, y + 0.5) for x, y in zip(columns, rows, strict=True)])
        low, high = source.min(axis=0), source.max(axis=0)
        assert low == pytest.approx((box.left, box.top), abs=1.0)
        assert high == pytest.approx((box.right, box.bottom), abs=1.0)
        area = (box.right - box.left) * (box.bottom - box.top) * placement.scale**2
        assert len(rows) == pytest.approx(area, rel=0.02)  # once, not again in the folded background


def test_the_background_is_folded_from_the_strips_beside_the_bottle() -> None:
    index = np.arange(-5, 15)
    assert _folded(index, 10, low=3, high=8).tolist() == [
        *(1, 2, 2, 1, 0),
        *range(10),
        *(9, 8, 8, 9, 9),
    ]


@pytest.mark.parametrize(
    "change", [{"seed": -1}, {"size": (16, 480)}, {"size": (640, 9000)}, {"quality": 0}, {"quality": 96}, {"pool": 0}]
)
def test_settings_out_of_range_are_named(change: dict[str, object]) -> None:
    with pytest.raises(BadSetting, match=next(iter(change))):
        SimulatedSource("line-1", **change)  # type: ignore[arg-type]
