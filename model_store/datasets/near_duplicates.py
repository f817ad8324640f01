"""Images that show the same photograph: copied, re-encoded, resized, relit a little, mirrored or turned.

In: decoded pictures. Out: pairs of them. Numpy and Pillow only; nothing of datasets or labels.

A sorting camera is fixed, and most of each picture is the same belt: how like two whole pictures are says little.
What tells two bottles apart is the place where they differ most. So two pictures are taken for the same photograph
when, brightness and contrast set equal, no small part differs by more than another file of it explains.

    thumbnails  64 x 64 RGB, lightly smoothed, so that another size or quality of the file hardly shows
    candidates  16 x 16 cells as vectors: each picture's few nearest, under the eight ways to mirror and turn a
                square. Matrix products in blocks, so that 20,000 pictures take half a minute
    check       of each candidate in the thumbnails: its difference is the largest root mean square of 2 x 2 pixels

Measured on the bottle frames at 224 px, every fourth copied in each way; differences in levels of 255:

    copy                          95 % below   largest   within COPY_BOUND, ALIKE_BOUND
    JPEG again, quality 90             1.7       2.4         100 %, 100 %
    JPEG again, quality 30             5.5       6.9         100 %, 100 %
    twice the size                     1.0       1.0         100 %, 100 %
    half the size                      6.0       7.7         100 %, 100 %
    that again, mirrored               9.9      13.5          88 %, 100 %
    a third of the size               14.7      16.6          25 %, 99 %
    15 % darker                        1.8       2.1         100 %, 100 %
    8 % brighter: highlights clip     12.0      15.8          71 %, 100 %
    15 % brighter                     23.3      27.1          30 %, 71 %
    1 % cropped on each side          24.5      34.8           9 %, 73 %

Different frames: no pair of the 400 comes below 32, turned and mirrored or not. A spot of 12 pixels in 224, the
size of a cap in a wide view, that differs by 40 levels makes 24 or more.

Some cameras show little but one kind of bottle in one pose, and then different bottles are within the bounds. So
the bounds shrink where pictures crowd: a copy is nearer than its neighbours are (`_thinned`).
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

COPY_BOUND = 8.0  # nothing that a person would label differently hides in so little
ALIKE_BOUND = 16.0
# Of the two thumbnails. In a dim picture no part can differ by many levels, yet different pictures correlate less:
# the copies above by 0.986 or more (cropped: 0.978), different frames by 0.92 at most.
_CORRELATION = 0.97
_CONTRAST_RATIO = 1.5
_MEAN_SHIFT = 40.0  # levels of brightness; 15 % is up to 38
_CAST_SHIFT = 24.0  # levels between the channels; a cast of 5 % is up to 18
_FLAT = 1.0  # levels of contrast below which there is nothing to compare

# A group of lookalikes larger than this share of the pictures, and than this number, is a crowd.
_CROWD_SHARE = 0.1
_CROWD = 10
_SHRINK = 2**-0.5
_FLOOR = 2.5  # levels: noise of the codec. What crowds even below can't be told apart

_THUMBNAIL_PX = 64
_CELL_PX = 4
_PART_PX = 2
# Cells are coarser than the thumbnails, so what differs less there differs less here.
_CELL_COSINE = 0.95
_CELL_SLACK = 1.25
_NEIGHBOURS = 4  # of each picture and turn; in a burst each frame is linked with the next ones, and so all of them
_BLOCK = 1024  # pictures whose neighbours are looked for at a time: 80 MB against 20,000
_CHUNK = 256  # pairs checked at a time: 50 MB

# How the first of a pair is to be turned to be the second. Bit 1: left and right change places; bit 2: top and
# bottom; bit 4: rows and columns, before the others.
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

Kind = Literal["identical", "copy", "alike"]
Floats = NDArray[np.float32]
Indices = NDArray[np.intp]


class Pair(NamedTuple):
    """Two pictures by their numbers, first < second.

    `identical`: every pixel. `copy`: within COPY_BOUND. `alike`: within ALIKE_BOUND. `turn`, one of TURNS (90° is
    clockwise), makes the second of the first; `difference` is that of the most different part, levels of 255.
    """

    first: int
    second: int
    kind: Kind
    turn: str
    difference: float


@dataclass(frozen=True)
class Duplicates:
    """What was found. `crowded` are pictures too like many others to tell which are copies; no pair names two."""

    pairs: tuple[Pair, ...]
    crowded: tuple[int, ...]


def find_duplicates(arrays: Sequence[NDArray[np.uint8]], *, steps: ProgressSteps) -> Duplicates:
    """Find pairs among all pictures of the arrays, uint8 [N, S, S, 3] each, numbered through.

    Not every pair of a group is named, but enough to connect it.
    """
    count = sum(len(array) for array in arrays)
    with steps.step("Looking for duplicates", total=count * (1 + len(TURNS))) as on_progress:
        thumbnails, identical = _thumbnails(arrays, on_progress)
        repeated = [pair.second for pair in identical]
        different = np.setdiff1d(np.arange(count), repeated)
        pairs = _lookalikes(thumbnails[different], on_progress)
    kept, crowded = _thinned(pairs, len(different))
    numbered = [pair._replace(first=int(different[pair.first]), second=int(different[pair.second])) for pair in kept]
    return Duplicates(tuple(sorted([*identical, *numbered])), tuple(int(different[number]) for number in crowded))


def connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The groups of two or more that the pairs connect, each ascending, by their first."""
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


def _thumbnails(arrays: Sequence[NDArray[np.uint8]], on_progress: OnProgress) -> tuple[NDArray[np.uint8], list[Pair]]:
    """Every picture's thumbnail, [N, 64, 64, 3], and each picture paired with the first that has the same pixels."""
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


def _lookalikes(thumbnails: NDArray[np.uint8], on_progress: OnProgress) -> list[Pair]:
    """Pairs that are a copy or alike, each in the turn that makes it most so, in order."""
    cells = _cells(thumbnails)
    nearest: dict[tuple[int, int], Pair] = {}
    for turn in range(len(TURNS)):
        for firsts, seconds in _candidates(cells, turn):
            for pair in _checked(thumbnails, cells, firsts, seconds, turn=turn):
                known = nearest.setdefault((pair.first, pair.second), pair)
                if pair.difference < known.difference:
                    nearest[pair.first, pair.second] = pair
        on_progress(len(thumbnails))
    return sorted(nearest.values())


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (_THUMBNAIL_PX, _THUMBNAIL_PX)
    # Pillow's BILINEAR averages over all that a pixel of the thumbnail covers.
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)).astype(np.uint16)
    padded = np.pad(small, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth: NDArray[np.uint16] = rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]
    return ((smooth + 8) // 16).astype(np.uint8)


def _cells(thumbnails: NDArray[np.uint8]) -> Floats:
    """Mean grey of each cell, [N, 16, 16, 1]."""
    side = _THUMBNAIL_PX // _CELL_PX
    parts = thumbnails.reshape(-1, side, _CELL_PX, side, _CELL_PX, 3)
    means: Floats = parts.mean(axis=(2, 4, 5), dtype=np.float32)
    return means[..., np.newaxis]


def _turned(pictures: Floats, turn: int) -> Floats:
    """Pictures [N, H, W, C] turned in one of the eight ways of TURNS."""
    if turn & 4:
        pictures = pictures.swapaxes(1, 2)
    return pictures[:, :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]


def _candidates(cells: Floats, turn: int) -> Iterator[tuple[Indices, Indices]]:
    """Pairs (first turned, second), first < second: of each first its nearest few."""
    firsts, seconds = _directions(_turned(cells, turn)), _directions(cells)
    for start in range(0, len(cells), _BLOCK):
        cosines = firsts[start : start + _BLOCK] @ seconds[start:].T
        cosines[np.tril_indices(len(cosines), m=cosines.shape[1])] = -1  # each pair once, and none with itself
        rows = np.flatnonzero(cosines.max(axis=1) >= _CELL_COSINE)
        near = cosines[rows]
        few = min(_NEIGHBOURS, near.shape[1])
        best = np.argpartition(near, near.shape[1] - few, axis=1)[:, near.shape[1] - few :]
        which, place = np.nonzero(np.take_along_axis(near, best, axis=1) >= _CELL_COSINE)
        yield start + rows[which], start + best[which, place]


def _directions(cells: Floats) -> Floats:
    """Each picture's cells as a vector of length 1 about their mean, whatever its brightness and contrast."""
    rows = cells.reshape(len(cells), cells.shape[1] * cells.shape[2])
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


def _checked(
    thumbnails: NDArray[np.uint8], cells: Floats, firsts: Indices, seconds: Indices, *, turn: int
) -> Iterator[Pair]:
    """Those of the candidates that are alike, by what their cells promise and their thumbnails show."""
    for start in range(0, len(firsts), _CHUNK):
        first, second = firsts[start : start + _CHUNK], seconds[start : start + _CHUNK]
        rough = _compared(_turned(cells[first], turn), cells[second])
        likely = np.abs(rough.difference).max(axis=(1, 2, 3)) <= ALIKE_BOUND * _CELL_SLACK
        first, second = first[likely], second[likely]
        compared = _compared(_turned(thumbnails[first].astype(np.float32), turn), thumbnails[second].astype(np.float32))
        difference = _largest_part(compared.difference)
        for row in np.flatnonzero(compared.is_relit & (difference <= ALIKE_BOUND)):
            worst = round(float(difference[row]), 2)
            kind: Kind = "copy" if worst <= COPY_BOUND else "alike"
            yield Pair(int(first[row]), int(second[row]), kind, TURNS[turn], worst)


class _Compared(NamedTuple):
    """`difference` [P, H, W, C] once brightness and contrast are equal; `is_relit` [P]: light may explain the rest."""

    difference: Floats
    is_relit: NDArray[np.bool_]


def _compared(first: Floats, second: Floats) -> _Compared:
    """Compare pictures [P, H, W, C] row by row."""
    every = (1, 2, 3)
    means = first.mean(axis=(1, 2)), second.mean(axis=(1, 2))
    first, second = first - means[0][:, None, None], second - means[1][:, None, None]
    contrasts = np.sqrt(np.square(first).mean(axis=every)), np.sqrt(np.square(second).mean(axis=every))
    safe = [np.maximum(contrast, 1e-3) for contrast in contrasts]
    gain = safe[1] / safe[0]
    shift = means[1] - means[0]
    is_relit = (
        ((first * second).mean(axis=every) >= _CORRELATION * safe[0] * safe[1])
        & (np.minimum(*contrasts) >= _FLAT)
        & (np.maximum(gain, 1 / gain) <= _CONTRAST_RATIO)
        & (np.abs(shift).max(axis=1) <= _MEAN_SHIFT)
        & (np.ptp(shift, axis=1) <= _CAST_SHIFT)
    )
    # Each goes half the way to the other's contrast, so that neither order of the two counts.
    half = np.sqrt(gain)[:, None, None, None]
    return _Compared(first * half - second / half, is_relit)


def _largest_part(difference: Floats) -> Floats:
    """The largest root mean square among the parts of each picture, [P]."""
    side = _THUMBNAIL_PX // _PART_PX
    squares = np.square(difference).reshape(-1, side, _PART_PX, side, _PART_PX, 3).mean(axis=(2, 4, 5))
    return np.asarray(np.sqrt(squares.max(axis=(1, 2))), np.float32)


def _thinned(pairs: list[Pair], count: int) -> tuple[list[Pair], list[int]]:
    """The pairs without those that only make a crowd, and the pictures that stay one whatever the bound.

    A group that is a good part of all pictures is a camera's usual view, not one photograph: there only nearer
    pairs count, until the groups are small. What doesn't fall apart above the codec's noise is left ungrouped, as
    a split can't put half of the pictures to one side.
    """
    most = max(_CROWD, int(_CROWD_SHARE * count))
    bound = ALIKE_BOUND
    while True:
        crowd = {number for group in connected(pair[:2] for pair in pairs) if len(group) > most for number in group}
        if not crowd:
            return pairs, []
        bound *= _SHRINK
        if bound < _FLOOR:
            return [pair for pair in pairs if pair.first not in crowd], sorted(crowd)
        pairs = [pair for pair in pairs if pair.first not in crowd or pair.difference <= bound]
