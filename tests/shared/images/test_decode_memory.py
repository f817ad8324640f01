"""Memory that decoding takes: estimated before, bounded over all threads, and given back.

Peaks are measured in a process of their own, one after the other, by the kernel's own high-water mark.
"""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageFile

from shared.errors import BadImage
from shared.images import decoding
from shared.images.decode_memory import MAX_DECODE_BYTES, UNCOUNTED_BYTES, DecodeMemory
from shared.images.decoding import MAX_PX, decode_image
from tests.kit import PATIENCE_S, run_python, wait_until
from tests.shared.images.pictures import KINDS, refusal
from torture.corpus import bombs

LARGE = 10 * UNCOUNTED_BYTES
# How much a process's memory differs from one run to the next.
SLACK_BYTES = 20_000_000
linux_only = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc/self/clear_refs"
)


# --- the account


def wait_for_waiting(memory: DecodeMemory, count: int) -> None:
    wait_until(lambda: len(memory._waiting) == count, f"{count} wait for memory")


def test_what_does_not_fit_waits_until_it_does_and_in_order() -> None:
    memory, order = DecodeMemory(), list[str]()

    def hold(name: str, count_bytes: int) -> None:
        with memory.hold(count_bytes, limit_bytes=LARGE):
            order.append(name)

    with ThreadPoolExecutor(2) as threads:
        with memory.hold(LARGE, limit_bytes=LARGE):
            first = threads.submit(hold, "large", LARGE)
            wait_for_waiting(memory, 1)
            # It is smaller, but must not overtake: a stream of such images would keep the large one waiting for ever.
            second = threads.submit(hold, "less", LARGE // 2)
            wait_for_waiting(memory, 2)
            assert memory.held_bytes == LARGE and not order
        first.result(PATIENCE_S)
        second.result(PATIENCE_S)
    assert order == ["large", "less"]
    assert memory.held_bytes == 0


def test_what_fits_together_is_held_together() -> None:
    memory = DecodeMemory()
    with memory.hold(LARGE // 2, limit_bytes=LARGE), ThreadPoolExecutor(1) as threads:

        def hold() -> int:
            with memory.hold(LARGE // 2, limit_bytes=LARGE):
                return memory.held_bytes

        assert threads.submit(hold).result(PATIENCE_S) == LARGE


def test_a_camera_frame_never_waits_for_a_large_image() -> None:
    memory = DecodeMemory()
    with memory.hold(LARGE, limit_bytes=LARGE), memory.hold(UNCOUNTED_BYTES, limit_bytes=LARGE):
        assert memory.held_bytes == LARGE


def test_it_is_given_back_when_decoding_fails() -> None:
    memory = DecodeMemory()
    with pytest.raises(BadImage), memory.hold(LARGE, limit_bytes=LARGE):
        raise BadImage("corrupt", "")
    assert memory.held_bytes == 0


class Watching(DecodeMemory):
    """Notes which of the frames that were loaded are still there when their memory is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[weakref.ref[ImageFile.ImageFile]] = []
        self.left: list[ImageFile.ImageFile] = []

    @contextlib.contextmanager
    def hold(self, count_bytes: int, *, limit_bytes: int) -> Iterator[None]:
        with super().hold(count_bytes, limit_bytes=limit_bytes):
            try:
                yield
            finally:
                self.left += [frame for ref in self.frames if (frame := ref()) is not None]


@pytest.mark.parametrize("data", [KINDS["png-alpha"], KINDS["png"][:200] + bytes(50) + KINDS["png"][250:]])
def test_pixels_are_gone_before_their_memory_is_given_back(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a file that fails: its error, while it is handled, would keep them beside the next file's."""
    watching, load = Watching(), ImageFile.ImageFile.load

    def note_load(self: ImageFile.ImageFile) -> Any:
        watching.frames.append(weakref.ref(self))
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", note_load)
    monkeypatch.setattr(decoding, "DECODE_MEMORY", watching)
    with contextlib.suppress(BadImage):
        decode_image(data, size_px=8)
    assert watching.frames and not watching.left


# --- refusals


@pytest.mark.parametrize("kind", ["webp", "jpeg", "png-alpha", "tiff", "bmp", "jpeg-progressive"])
def test_an_image_that_would_take_more_than_the_bound_for_all_is_refused(kind: str) -> None:
    refused = refusal(KINDS[kind], max_decode_bytes=10_000)
    assert refused.reason == "too_large_px"
    assert "10,000" in str(refused) and "max_decode_bytes" in str(refused)


@pytest.mark.parametrize(
    "make", [lambda: bombs.png(7071, 7071, 8, 6), lambda: bombs.strips((7071, 7071), [32], 1, t339=[3])]
)
def test_the_largest_picture_is_not_refused(make: Any) -> None:
    assert MAX_PX - 7071**2 < 7071
    assert decode_image(make(), size_px=8).shape == (8, 8, 3)


def test_a_tile_counts_with_all_its_pixels() -> None:
    refused = refusal(bombs.tiles((100, 100), 7_200, [8], 1))
    assert refused.reason == "too_large_px"
    assert "tiles of 7200 x 7200" in str(refused)


def test_a_bigtiff_that_pillow_and_libtiff_read_differently_is_refused() -> None:
    assert refusal(b"MM\0+\0\x08\0\0" + bytes(64)).reason == "unsupported"


def test_a_png_with_much_text_is_refused() -> None:
    """Text that is compressed to a thousandth, and takes 4 bytes a character in memory: 60 pieces took 250 MB."""
    refused = refusal(bombs.png_text(3))
    assert refused.reason == "corrupt" and "text" in str(refused)
    decode_image(bombs.png_text(1), size_px=8)


def test_a_list_of_orientations_is_none() -> None:
    """Pillow makes 140 MB of a million fractions, one by one."""
    upright = decode_image(bombs.webp_exif(b""), size_px=8)
    assert (decode_image(bombs.webp_exif(bombs.exif_of(type_of_tag=5, count=1000)), size_px=8) == upright).all()


# --- what it really takes

_MEASURE = """
import json, sys, threading
from shared.images import decode_memory, decoding
from shared.native_memory import give_back_free_memory
from shared.errors import BadImage
from torture.corpus import bombs

def resident(line):
    with open("/proc/self/status") as file:
        return next(int(row.split()[1]) * 1024 for row in file if row.startswith(line))

held = []
class Noting(decode_memory.DecodeMemory):
    def hold(self, count_bytes, *, limit_bytes):
        held.append(count_bytes)
        return super().hold(count_bytes, limit_bytes=limit_bytes)
decoding.DECODE_MEMORY = Noting()

def decode(data, limit_bytes):
    try:
        decoding.decode_image(data, size_px=224, max_decode_bytes=limit_bytes)
    except BadImage:
        pass

side, limit_bytes, groups = json.loads(sys.argv[1])
kinds = bombs.kinds(side) | bombs.METADATA
decode(kinds["png RGB"](), limit_bytes)  # so that what the first call loads is there
for names in groups:
    files = [kinds[name]() for name in names]
    held.clear()
    give_back_free_memory()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = resident("VmRSS")
    threads = [threading.Thread(target=decode, args=(data, limit_bytes)) for data in files]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    peak, after = resident("VmHWM") - before, resident("VmRSS") - before
    print(json.dumps([names, peak, after, max(held, default=0)]), flush=True)
"""


def measured(groups: Sequence[Sequence[str]], *, side: int, limit_bytes: int) -> list[tuple[str, int, int, int]]:
    """By group of files that are decoded at the same time: peak, what stays, and the largest estimate, bytes."""
    printed = run_python(_MEASURE, json.dumps([side, limit_bytes, groups]))
    rows = [json.loads(line) for line in printed.splitlines()]
    assert len(rows) == len(groups)
    return [(" + ".join(names), *figures) for names, *figures in rows]


@pytest.mark.slow
@linux_only
def test_no_image_takes_more_than_its_estimate() -> None:
    rows = measured([[name] for name in bombs.kinds(2500)], side=2500, limit_bytes=10**10)
    over = [row for row in rows if row[1] > max(row[3], UNCOUNTED_BYTES) + SLACK_BYTES // 2]
    assert not over


# Pairs that are decoded, one after the other or at the same time; METADATA is refused before it takes any memory.
PAIRS: list[Sequence[str]] = [
    ["tiff LAB", "jpeg progressive CMYK"],
    ["png palette, transparent", "tiff float"],
    ["png RGB", "png RGB"],
    ["webp", "webp canvas"],
    ["tiff fax, one row", "tiff RGB 16, one strip"],
    *zip(list(bombs.METADATA)[::2], list(bombs.METADATA)[1::2], strict=True),
]


@pytest.mark.slow
@linux_only
def test_no_pair_of_files_takes_more_than_decoding_may_and_it_is_given_back() -> None:
    rows = measured(PAIRS, side=7000, limit_bytes=MAX_DECODE_BYTES)
    # Text and tags are read before anything is held, and a file of 20 MB may be copied while it is opened.
    over = [row for row in rows if row[1] > MAX_DECODE_BYTES + 2 * UNCOUNTED_BYTES + SLACK_BYTES]
    assert not over
    kept = [row for row in rows if row[2] > SLACK_BYTES + UNCOUNTED_BYTES]
    assert not kept
