"""Finds images that show the same photograph: copied, re-encoded, resized, slightly relit, mirrored or turned.

In: decoded images. Out: pairs of them. Uses NumPy and Pillow only; knows nothing about datasets or labels.

A sorting camera is fixed, and most of each image is the same belt, so the overall similarity of two images says little.
Two bottles differ most clearly in one small place. So two images count as the same photograph if, after brightness and
contrast are made equal, no small part differs by more than re-encoding the file can explain.

    thumbnails  64 x 64 RGB, lightly smoothed, so that the size or quality of the file hardly matters
    candidates  16 x 16 cells as vectors: the few nearest neighbors of each image, under the eight ways to mirror and
                turn a square. They are found by matrix products in blocks, so that 20,000 images take half a minute
    check       each candidate pair in the thumbnails: its difference is the largest root mean square of 2 x 2 pixels

Measured on the bottle frames at 224 px, every fourth copied in each way; differences in levels (0 to 255):

    copy                          95 % below   largest   within COPY_BOUND, ALIKE_BOUND
    JPEG again, quality 90             1.7       2.4         100 %, 100 %
    JPEG again, quality 30             5.5       6.9         100 %, 100 %
    twice the size                     1.0       1.0         100 %, 100 %
    half the size                      6.0       7.7         100 %, 100 %
    half the size, mirrored            9.9      13.5          88 %, 100 %
    a third of the size               14.7      16.6          25 %, 99 %
    15 % darker                        1.8       2.1         100 %, 100 %
    8 % brighter: highlights clip     12.0      15.8          71 %, 100 %
    15 % brighter                     23.3      27.1          30 %, 71 %
    1 % cropped on each side          24.5      34.8           9 %, 73 %

No pair of the 400 different frames differs by less than 32, even when turned or mirrored. A spot of 12 px in a frame of
224 px (the size of a cap in a wide view) that differs by 40 levels makes a difference of 24 or more.

Some cameras show mostly one kind of bottle in one pose, and then even different bottles are within the bounds. So the
bounds shrink where many images are similar: a copy is nearer than the other neighbors are (`_split_crowds`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.runtime.progress import OnProgress, ProgressSteps
from shared.arrays import Bools, Floats, Indices
from shared.images.arrays import Pixels

COPY_BOUND = 8.0  # a change that matters to a label makes a larger difference
ALIKE_BOUND = 16.0
# The least correlation of the thumbnails of a pair. It tells different images apart even if they are dim, where no part
# can differ by many levels. It is 0.986 or more for the copies above (cropped: 0.978), and at most 0.92 for different
# frames.
_CORRELATION = 0.97
_CONTRAST_RATIO = 1.5
_MEAN_SHIFT = 40.0  # levels of brightness; 15 % is up to 38
_CAST_SHIFT = 24.0  # levels between the channels; a color cast of 5 % is up to 18
_FLAT = 1.0  # levels of contrast below which images can't be compared

# A group of similar images larger than this share of all images, and than this number, is a crowd.
_CROWD_SHARE = 0.1
_CROWD = 10
_SHRINK = 2**-0.5
_FLOOR = 2.5  # levels: the noise of the codec. Images that differ by less can't be told apart

_THUMBNAIL_PX = 64
_CELL_PX = 4
_PART_PX = 2
# Cells are coarser than the thumbnails, so differences are smaller in them.
_CELL_COSINE = 0.95
_CELL_SLACK = 1.25
_NEIGHBORS = 4  # per image and turn. Frames of a burst are still all connected: each is linked with the next ones
_BLOCK = 1024  # images whose neighbors are searched at a time: 80 MB for 20,000 images
_CHUNK = 256  # pairs checked at a time: 50 MB

# How to turn the first image of a pair to get the second. The index of a turn is a sum: 4 swaps rows and columns, and
# is applied first; 1 swaps left and right; 2 swaps top and bottom.
TURNS = (
    "as it is",
    "mirrored",
    "mirrored, turned by 180°",
    "turned by 180°",
    "mirrored, turned by 270°",
    "turned by 90°",
    "turned by 270°",
    "mirrored, turned by 90°",
)

DuplicateKind = Literal["identical", "copy", "alike"]


class Pair(NamedTuple):
    """Two images by their numbers, first < second.

    `identical`: every pixel is equal. `copy`: they differ by at most COPY_BOUND. `alike`: by at most ALIKE_BOUND.
    `turn`, one of TURNS (90° is clockwise), turns the first into the second. `difference` is that of the most different
    part, in levels (0 to 255).
    """

    first: int
    second: int
    kind: DuplicateKind
    turn: str
    difference: float


@dataclass(frozen=True)
class Duplicates:
    """The pairs. `crowded` are images too similar to many others to tell which are copies; no pair connects two."""

    pairs: tuple[Pair, ...]
    crowded: tuple[int, ...]


def find_duplicates(arrays: Sequence[Pixels], *, steps: ProgressSteps) -> Duplicates:
    """Find pairs among all images of the arrays, uint8 [N, S, S, 3] each, numbered consecutively.

    Not every pair of a group is listed, but enough to connect it.
    """
    count = sum(len(array) for array in arrays)
    with steps.step("Looking for duplicates", total=count * (1 + len(TURNS))) as on_progress:
        thumbnails, identical = _thumbnails(arrays, on_progress)
        repeated = [pair.second for pair in identical]
        different = np.setdiff1d(np.arange(count), repeated)
        pairs = _similar_pairs(thumbnails[different], on_progress)
    kept, crowded = _split_crowds(pairs, len(different))
    numbered = [pair._replace(first=int(different[pair.first]), second=int(different[pair.second])) for pair in kept]
    return Duplicates(tuple(sorted([*identical, *numbered])), tuple(int(different[number]) for number in crowded))


def connected_groups(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The groups of two or more numbers that the pairs connect, each ascending, ordered by their first number."""
    root: dict[int, int] = {}

    def find(number: int) -> int:
        while root.setdefault(number, number) != number:
            root[number] = number = root[root[number]]
        return number

    for first, second in pairs:
        low, high = sorted((find(first), find(second)))
        root[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for number in sorted(root):
        groups[find(number)].append(number)
    return list(groups.values())


def _thumbnails(arrays: Sequence[Pixels], on_progress: OnProgress) -> tuple[Pixels, list[Pair]]:
    """The thumbnails, [N, 64, 64, 3], and a pair for each image whose pixels equal those of an earlier one."""
    count = sum(len(array) for array in arrays)
    thumbnails = np.empty((count, _THUMBNAIL_PX, _THUMBNAIL_PX, 3), np.uint8)
    first_of: dict[bytes, int] = {}
    pairs = []
    for number, image in enumerate(itertools.chain.from_iterable(arrays)):
        thumbnails[number] = _thumbnail(image)
        first = first_of.setdefault(hashlib.blake2b(np.ascontiguousarray(image).data).digest(), number)
        if first != number:
            pairs.append(Pair(first, number, "identical", TURNS[0], 0.0))
        on_progress(1)
    return thumbnails, pairs


def _similar_pairs(thumbnails: Pixels, on_progress: OnProgress) -> list[Pair]:
    """Pairs that are a copy or alike, in order, each with the turn that gives the smallest difference."""
    cells = _cells(thumbnails)
    nearest: dict[tuple[int, int], Pair] = {}
    for turn in range(len(TURNS)):
        for firsts, seconds in _candidates(cells, turn):
            for pair in _checked(thumbnails, cells, firsts, seconds, turn=turn):
                best = nearest.setdefault((pair.first, pair.second), pair)
                if pair.difference < best.difference:
                    nearest[pair.first, pair.second] = pair
        on_progress(len(thumbnails))
    return sorted(nearest.values())


def _thumbnail(image: Pixels) -> Pixels:
    size = (_THUMBNAIL_PX, _THUMBNAIL_PX)
    # Pillow's BILINEAR averages over the whole area that a pixel of the thumbnail covers.
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)).astype(np.uint16)
    padded = np.pad(small, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth: NDArray[np.uint16] = rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]
    return ((smooth + 8) // 16).astype(np.uint8)


def _cells(thumbnails: Pixels) -> Floats:
    """Mean gray of each cell, [N, 16, 16, 1]."""
    side = _THUMBNAIL_PX // _CELL_PX
    parts = thumbnails.reshape(-1, side, _CELL_PX, side, _CELL_PX, 3)
    means: Floats = parts.mean(axis=(2, 4, 5), dtype=np.float32)
    return means[..., np.newaxis]


def _turned(images: Floats, turn: int) -> Floats:
    """Images [N, H, W, C] turned in one of the eight ways of TURNS."""
    if turn & 4:
        images = images.swapaxes(1, 2)
    return images[:, :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]


def _candidates(cells: Floats, turn: int) -> Iterator[tuple[Indices, Indices]]:
    """Pairs (first, second), first < second: each first image, turned, with the few images nearest to it."""
    firsts, seconds = _directions(_turned(cells, turn)), _directions(cells)
    for start in range(0, len(cells), _BLOCK):
        cosines = firsts[start : start + _BLOCK] @ seconds[start:].T
        cosines[np.tril_indices(len(cosines), m=cosines.shape[1])] = -1  # each pair once, and no image with itself
        rows = np.flatnonzero(cosines.max(axis=1) >= _CELL_COSINE)
        near = cosines[rows]
        few = min(_NEIGHBORS, near.shape[1])
        best = np.argpartition(near, near.shape[1] - few, axis=1)[:, near.shape[1] - few :]
        which, rank = np.nonzero(np.take_along_axis(near, best, axis=1) >= _CELL_COSINE)
        yield start + rows[which], start + best[which, rank]


def _directions(cells: Floats) -> Floats:
    """The cells of each image minus their mean, as a vector of length 1: independent of brightness and contrast."""
    rows = cells.reshape(len(cells), cells.shape[1] * cells.shape[2])
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


def _checked(thumbnails: Pixels, cells: Floats, firsts: Indices, seconds: Indices, *, turn: int) -> Iterator[Pair]:
    """The candidates that are similar: first filtered by their cells, then checked in the thumbnails."""
    for start in range(0, len(firsts), _CHUNK):
        first, second = firsts[start : start + _CHUNK], seconds[start : start + _CHUNK]
        rough = _compared(_turned(cells[first], turn), cells[second])
        likely = np.abs(rough.difference).max(axis=(1, 2, 3)) <= ALIKE_BOUND * _CELL_SLACK
        first, second = first[likely], second[likely]
        compared = _compared(_turned(thumbnails[first].astype(np.float32), turn), thumbnails[second].astype(np.float32))
        difference = _largest_part(compared.difference)
        for row in np.flatnonzero(compared.is_relit & (difference <= ALIKE_BOUND)):
            worst = round(float(difference[row]), 2)
            kind: DuplicateKind = "copy" if worst <= COPY_BOUND else "alike"
            yield Pair(int(first[row]), int(second[row]), kind, TURNS[turn], worst)


class _Compared(NamedTuple):
    """How the images of each pair differ.

    `difference` [P, H, W, C] is what remains after brightness and contrast are made equal. `is_relit` [P]: the images
    correlate, and a change of light can explain their brightness and contrast.
    """

    difference: Floats
    is_relit: Bools


def _compared(first: Floats, second: Floats) -> _Compared:
    """Compare images [P, H, W, C] row by row."""
    image_axes = (1, 2, 3)
    means = first.mean(axis=(1, 2)), second.mean(axis=(1, 2))
    first, second = first - means[0][:, None, None], second - means[1][:, None, None]
    contrasts = np.sqrt(np.square(first).mean(axis=image_axes)), np.sqrt(np.square(second).mean(axis=image_axes))
    safe = [np.maximum(contrast, 1e-3) for contrast in contrasts]
    gain = safe[1] / safe[0]
    shift = means[1] - means[0]
    is_relit = (
        ((first * second).mean(axis=image_axes) >= _CORRELATION * safe[0] * safe[1])
        & (np.minimum(*contrasts) >= _FLAT)
        & (np.maximum(gain, 1 / gain) <= _CONTRAST_RATIO)
        & (np.abs(shift).max(axis=1) <= _MEAN_SHIFT)
        & (np.ptp(shift, axis=1) <= _CAST_SHIFT)
    )
    # Bring each image halfway to the other's contrast, so that the order of the two doesn't matter.
    half = np.sqrt(gain)[:, None, None, None]
    return _Compared(first * half - second / half, is_relit)


def _largest_part(difference: Floats) -> Floats:
    """The largest root mean square among the parts of each image, [P]."""
    side = _THUMBNAIL_PX // _PART_PX
    squares = np.square(difference).reshape(-1, side, _PART_PX, side, _PART_PX, 3).mean(axis=(2, 4, 5))
    return np.asarray(np.sqrt(squares.max(axis=(1, 2))), np.float32)


def _split_crowds(pairs: list[Pair], count: int) -> tuple[list[Pair], list[int]]:
    """Drop pairs that only connect crowds. Returns the other pairs, and the images that stay a crowd at any bound.

    A group that is a large part of all images is a camera's usual view, not one photograph. In such a group the bound
    shrinks until the remaining pairs connect only small groups. If a group is still too large when the bound reaches
    the codec's noise, all its pairs are dropped, because a split can't keep half of the images on one side.
    """
    most = max(_CROWD, int(_CROWD_SHARE * count))
    bound = ALIKE_BOUND
    while True:
        crowd = {
            number for group in connected_groups(pair[:2] for pair in pairs) if len(group) > most for number in group
        }
        if not crowd:
            return pairs, []
        bound *= _SHRINK
        if bound < _FLOOR:
            return [pair for pair in pairs if pair.first not in crowd], sorted(crowd)
        pairs = [pair for pair in pairs if pair.first not in crowd or pair.difference <= bound]
