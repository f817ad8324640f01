"""Which pictures count as the same photograph, and which don't, such as different bottles before one camera."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from model_store.datasets import near_duplicates
from model_store.datasets.near_duplicates import Duplicates, Pair, connected_groups, find_duplicates
from model_store.runtime.progress import ProgressSteps
from producer.sources.demo_dataset import held_out_bottles
from producer.sources.simulator import SimulatedSource
from shared.images.arrays import Pixels
from shared.images.decoding import decode_image
from tests.kit import BOTTLES

SIZE_PX = 128
FRAMES = sorted(BOTTLES.glob("*.jpg"))


def find(*arrays: Pixels | list[Pixels]) -> Duplicates:
    return find_duplicates([np.asarray(array) for array in arrays], steps=ProgressSteps())


def decoded(data: bytes) -> Pixels:
    return decode_image(data, size_px=SIZE_PX)


def frame(number: int) -> Image.Image:
    with Image.open(FRAMES[number]) as file:
        return file.convert("RGB")


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


@pytest.fixture(scope="module")
def frames() -> Pixels:
    """All bottle frames, uint8 [400, 128, 128, 3]."""
    return np.stack([decoded(path.read_bytes()) for path in FRAMES])


def test_no_two_bottle_frames_count_as_the_same(frames: Pixels) -> None:
    assert find(frames) == Duplicates((), ())


def test_frames_of_different_simulated_bottles_do_not_count_as_the_same() -> None:
    source = SimulatedSource("line-1", size=(320, 240))
    shown = [source.frame(number) for number in range(80)]
    assert len({one.source_name for one in shown}) == 80
    assert find([decoded(one.data) for one in shown]) == Duplicates((), ())


def resized(image: Image.Image, width: float, height: float) -> Image.Image:
    return image.resize((round(image.width * width), round(image.height * height)), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        pytest.param(lambda image: jpeg(image, 90), {"copy"}, id="quality 90"),
        pytest.param(lambda image: jpeg(image, 30), {"copy"}, id="quality 30"),
        pytest.param(lambda image: jpeg(resized(image, 2, 2)), {"copy"}, id="twice the size"),
        pytest.param(lambda image: jpeg(resized(image, 0.5, 0.5)), {"copy", "alike"}, id="half the size"),
        pytest.param(lambda image: jpeg(resized(image, 1, 0.75)), {"copy"}, id="another shape"),
        pytest.param(lambda image: jpeg(resized(image, 0.4, 0.4)), {"copy", "alike"}, id="two fifths"),
        pytest.param(lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.85)), {"copy"}, id="darker"),
        pytest.param(
            lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.08)), {"copy", "alike"}, id="brighter"
        ),
        pytest.param(
            lambda image: jpeg(ImageEnhance.Contrast(image).enhance(1.1)), {"copy", "alike"}, id="more contrast"
        ),
        pytest.param(
            lambda image: jpeg(resized(ImageEnhance.Brightness(image).enhance(0.93), 0.6, 0.6), 60),
            {"copy", "alike"},
            id="smaller, darker, quality 60",
        ),
    ],
)
def test_a_changed_copy_is_found(frames: Pixels, change: Callable[[Image.Image], bytes], kinds: set[str]) -> None:
    chosen = range(0, 400, 20)
    found = find(frames, [decoded(change(frame(number))) for number in chosen])
    assert [pair[:2] for pair in found.pairs] == [(number, 400 + place) for place, number in enumerate(chosen)]
    assert {pair.turn for pair in found.pairs} == {"as it is"}
    assert {pair.kind for pair in found.pairs} <= kinds
    assert found.crowded == ()


@pytest.mark.parametrize(
    ("transposes", "turn"),
    [
        (["FLIP_LEFT_RIGHT"], "mirrored"),
        (["ROTATE_180"], "turned by 180°"),
        (["ROTATE_270"], "turned by 90°"),  # Pillow turns counterclockwise
        (["ROTATE_90"], "turned by 270°"),
        (["FLIP_LEFT_RIGHT", "ROTATE_180"], "mirrored, turned by 180°"),
        (["FLIP_LEFT_RIGHT", "ROTATE_270"], "mirrored, turned by 90°"),
        (["FLIP_LEFT_RIGHT", "ROTATE_90"], "mirrored, turned by 270°"),
    ],
)
def test_a_turned_copy_is_found_and_its_turn_named(frames: Pixels, transposes: list[str], turn: str) -> None:
    chosen = range(3, 400, 40)
    copies = []
    for number in chosen:
        image = frame(number)
        for transpose in transposes:
            image = image.transpose(Image.Transpose[transpose])
        copies.append(decoded(jpeg(image, 80)))
    found = find(frames, copies)
    assert [(pair.second - 400, pair.first) for pair in sorted(found.pairs, key=lambda pair: pair.second)] == list(
        enumerate(chosen)
    )
    assert {pair.turn for pair in found.pairs} == {turn}


def test_the_same_pixels_are_identical_whatever_their_array(frames: Pixels) -> None:
    found = find(frames[:3], frames[2:4], frames[:1])
    assert found.pairs == (Pair(0, 5, "identical", "as it is", 0.0), Pair(2, 3, "identical", "as it is", 0.0))


def test_a_copy_of_an_identical_picture_is_linked_once(frames: Pixels) -> None:
    found = find(frames[:20], frames[7:8], [decoded(jpeg(frame(7), 60))])
    assert [pair[:3] for pair in found.pairs] == [(7, 20, "identical"), (7, 21, "copy")]


def belt() -> NDArray[np.float64]:
    """The background that a fixed camera sees around each bottle, [240, 320, 3]."""
    row, column = np.mgrid[0:240, 0:320]
    gray = 90 + 15 * np.sin(column / 9) + 10 * np.sin(row / 3 + column / 16) + 20 * row / 240
    return gray[..., np.newaxis] * np.array([1, 0.97, 0.93])


def on_belt(bottle: NDArray[np.float64], share: NDArray[np.float64], seed: int) -> Pixels:
    """A bottle [H, W, 3] in the middle of the belt, with noise; `share` [H, W] is its opacity at each pixel."""
    picture = belt()
    height, width = share.shape
    top, left = (240 - height) // 2, (320 - width) // 2
    part = picture[top : top + height, left : left + width]
    part += (bottle - part) * share[..., np.newaxis]
    picture += np.random.default_rng(seed).normal(0, 3, picture.shape)
    return decoded(jpeg(Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)), 88))


def test_different_bottles_that_fill_a_fifth_of_the_picture_are_not_the_same() -> None:
    pictures = []
    for seed, bottle in enumerate(held_out_bottles()):
        with Image.open(bottle.path) as file:
            image = file.convert("RGB").crop((bottle.box.left, bottle.box.top, bottle.box.right, bottle.box.bottom))
        scale = (0.2 * 320 * 240 / (image.width * image.height)) ** 0.5
        image = resized(image, min(scale, 300 / image.width), min(scale, 230 / image.height))
        row, column = (np.linspace(-1, 1, side) for side in (image.height, image.width))
        share = np.clip(1.6 - 1.6 * (row[:, np.newaxis] ** 4 + column**4), 0, 1)
        pictures.append(on_belt(np.asarray(image, np.float64), share, seed))
    changed = pictures[10].astype(np.float64) * 0.95
    found = find([*pictures, changed.astype(np.uint8)])
    assert [pair[:3] for pair in found.pairs] == [(10, 80, "copy")]


@pytest.mark.parametrize("number", range(0, 400, 50))
def test_a_spot_of_the_size_of_a_distant_cap_makes_another_photograph(number: int) -> None:
    pixels = np.asarray(frame(number)).astype(int)
    spot = pixels[120:134, 120:134]
    spot += 40 if spot.mean() < 128 else -40
    changed = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    assert find([decoded(jpeg(frame(number), 95)), decoded(jpeg(changed, 95))]).pairs == ()


def test_larger_changes_of_color_and_light_make_another_photograph() -> None:
    image = frame(5)
    red, green, blue = image.split()
    changed = [
        image,
        ImageEnhance.Brightness(image).enhance(0.5),
        ImageEnhance.Contrast(image).enhance(0.4),
        Image.merge("RGB", [blue, green, red]),
        Image.merge("RGB", [red.point(lambda value: value * 0.7), green, blue]),
    ]
    assert find([decoded(jpeg(one, 95)) for one in changed]).pairs == ()


def test_flat_or_noisy_pictures_are_the_same_only_when_identical() -> None:
    rng = np.random.default_rng(1)
    flat = [np.full((32, 32, 3), color, np.uint8) for color in (0, 1, 120, 255)]
    noise = [np.clip(rng.normal(120, 15, (32, 32, 3)), 0, 255).astype(np.uint8) for _ in range(20)]
    found = find([*flat, *noise, flat[2], noise[0]])
    assert [pair[:3] for pair in found.pairs] == [(2, 24, "identical"), (4, 25, "identical")]
    assert found.crowded == ()


def bottle_in_a_jig(seed: int, *, cap: bool) -> Pixels:
    """One kind of bottle, always in the same place: only the cap and the camera's noise differ."""
    row, column = np.mgrid[-70:70, -30:30]
    share = ((np.abs(column) < np.where(row < -30, 12, 28)) & (row > (-65 if cap else -50))).astype(float)
    shade = 200 * np.cos(column / 28)[..., np.newaxis] * np.array([0.7, 1, 0.8])
    return on_belt(np.where(row[..., np.newaxis] < -50, 220, shade), share, seed)


def test_pictures_that_are_all_alike_are_a_crowd_not_copies() -> None:
    jig = [bottle_in_a_jig(seed, cap=seed % 2 == 0) for seed in range(60)]
    found = find([*jig, jig[7]])
    assert [pair[:3] for pair in found.pairs] == [(7, 60, "identical")]
    assert len(found.crowded) >= 55


def test_copies_are_found_beside_a_crowd(frames: Pixels) -> None:
    jig = [bottle_in_a_jig(seed, cap=False) for seed in range(40)]
    found = find(jig, frames[:60], [decoded(jpeg(frame(9), 60))])
    assert [pair[:2] for pair in found.pairs] == [(49, 100)]
    assert set(found.crowded) <= set(range(40))


def test_bounds_shrink_until_the_groups_are_small() -> None:
    chain = [Pair(number, number + 1, "alike", "as it is", 15.0 if number % 4 == 3 else 9.0) for number in range(39)]
    aside = Pair(50, 51, "alike", "as it is", 15.0)
    pairs, crowd = near_duplicates._split_crowds([*chain, aside], 100)
    assert crowd == []
    assert pairs == [*(pair for pair in chain if pair.difference == 9.0), aside]
    assert near_duplicates._split_crowds([*chain, aside], 400) == (
        [*chain, aside],
        [],
    )  # 40 pictures are a tenth of 400: not a crowd
    close = [pair._replace(difference=1.0) for pair in chain]
    assert near_duplicates._split_crowds([*close, aside], 100) == ([aside], list(range(40)))


def test_blocks_and_chunks_do_not_change_what_is_found(frames: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [decoded(jpeg(frame(number).transpose(Image.Transpose.ROTATE_90), 70)) for number in range(0, 60, 3)]
    whole = find(frames[:60], copies)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 7)
    monkeypatch.setattr(near_duplicates, "_CHUNK", 3)
    assert len(whole.pairs) == 20
    assert find(frames[:60], copies) == whole


@pytest.mark.parametrize("count", [0, 1, 2])
def test_very_few_pictures_have_no_duplicates(frames: Pixels, count: int) -> None:
    assert find(frames[:count]) == Duplicates((), ())


def test_pairs_connect_groups() -> None:
    assert connected_groups([]) == []
    assert connected_groups([(5, 9), (1, 2), (9, 7), (2, 3), (12, 11), (3, 1)]) == [[1, 2, 3], [5, 7, 9], [11, 12]]
    assert connected_groups((number, number + 1) for number in reversed(range(5000))) == [list(range(5001))]
