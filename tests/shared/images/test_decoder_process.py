"""A process of its own for costly images: the same pixels, and a true reason where it is killed or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from shared.errors import BadImage, DecoderLost
from shared.images import decoder_process
from shared.images.crop_regions import Region
from shared.images.decoder_process import DecoderProcess
from shared.images.decoding import decode_image
from tests.kit import PROJECT, is_gone, wait_until
from tests.shared.images.pictures import KINDS
from torture.corpus import bombs

MARKED = "tests.shared.images.marked_decoder"
SIZE_PX = 24
linux_only = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


@pytest.fixture
def helper() -> Iterator[DecoderProcess]:
    process = DecoderProcess()
    yield process
    process.close()


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderProcess]:
    """A decoder process that obeys marks, and may take 100 MB for decoding."""
    monkeypatch.setattr(decoder_process, "_PROGRAM", MARKED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    process = DecoderProcess(max_decode_bytes=100_000_000, max_bytes=1_000_000)
    yield process
    process.close()


def pixels() -> np.ndarray:
    return np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)


def with_mark(mark: str) -> bytes:
    return KINDS["jpeg"] + b"mark:" + mark.encode()


def decode(process: DecoderProcess, data: bytes, **options: float) -> np.ndarray:
    out = pixels()
    process.decode_into(data, out, **options)  # type: ignore[arg-type]
    return out


# --- as in this process


@pytest.mark.parametrize("kind", ["jpeg", "png-alpha", "webp", "bmp-palette", "tiff-lzw"])
def test_the_pixels_are_those_of_this_process(helper: DecoderProcess, kind: str) -> None:
    assert (decode(helper, KINDS[kind]) == decode_image(KINDS[kind], size_px=SIZE_PX)).all()


def test_region_and_fit_are_passed_on(helper: DecoderProcess) -> None:
    region, out = Region(0.25, 0, 0.9, 1), pixels()
    helper.decode_into(KINDS["png"], out, region=region, fit="pad")
    assert (out == decode_image(KINDS["png"], size_px=SIZE_PX, region=region, fit="pad")).all()


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (b"", {}),
        (b"text", {}),
        (KINDS["png"][:-12], {}),
        (KINDS["tiff-lzw"][:200], {}),
        (KINDS["webp"], {"max_px": 100}),
        (KINDS["webp"], {"max_bytes": 100}),
        (KINDS["webp"], {"max_decode_bytes": 100}),
        (KINDS["webp"], {"max_decode_s": 1e-9}),
    ],
)
def test_refusals_are_those_of_this_process(helper: DecoderProcess, data: bytes, limits: dict[str, int]) -> None:
    with pytest.raises(BadImage) as ours:
        decode_image(data, size_px=SIZE_PX, **limits)  # type: ignore[arg-type]
    with pytest.raises(BadImage) as its:
        decode(helper, data, **limits)
    assert (its.value.reason, str(its.value)) == (ours.value.reason, str(ours.value))


def test_it_starts_with_the_first_image_and_is_kept(helper: DecoderProcess) -> None:
    assert helper.pid is None
    decode(helper, KINDS["jpeg"])
    first = helper.pid
    assert first is not None and not is_gone(first)
    decode(helper, KINDS["png"])
    assert helper.pid == first
    helper.close()
    assert helper.pid is None and is_gone(first)
    decode(helper, KINDS["png"])
    assert helper.pid not in (None, first)


def test_what_the_headers_refuse_starts_no_process(helper: DecoderProcess) -> None:
    with pytest.raises(BadImage):
        decode(helper, bombs.png(3000, 3000, 8, 2), max_decode_s=0.1)
    assert helper.pid is None


def test_many_threads_may_ask(helper: DecoderProcess) -> None:
    kinds = ["jpeg", "png", "webp", "bmp", "tiff"] * 4
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda kind: decode(helper, KINDS[kind]), kinds))
    for kind, out in zip(kinds, found, strict=True):
        assert (out == decode_image(KINDS[kind], size_px=SIZE_PX)).all()


def test_what_a_library_prints_is_no_answer(marked: DecoderProcess) -> None:
    assert (decode(marked, with_mark("print")) == decode_image(KINDS["jpeg"], size_px=SIZE_PX)).all()


# --- its limits


def failed(process: DecoderProcess, mark: str, **options: float) -> BadImage:
    """The refusal of a marked file. Its process is gone afterwards, and a new one decodes the next image."""
    with pytest.raises(BadImage) as caught:
        decode(process, with_mark(mark), **options)
    assert process.pid is None
    decode(process, KINDS["jpeg"])
    return caught.value


@pytest.mark.parametrize("mark", ["spin", "spin with the lock"])
def test_an_image_that_takes_too_much_processor_time(
    marked: DecoderProcess, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "_WALL_FACTOR", 1000.0)  # other work may have the processor
    refused = failed(marked, mark, max_decode_s=0.2)
    assert refused.reason == "unsupported"
    assert "took longer than 0.2 s of processor time (max_decode_s)" in str(refused)


def test_an_image_that_hangs(marked: DecoderProcess) -> None:
    refused = failed(marked, "hang", max_decode_s=0.2)
    assert refused.reason == "unsupported" and "took longer than 0.8 s" in str(refused)


@linux_only
@pytest.mark.parametrize("mark", ["grow", "grow in Pillow"])
def test_an_image_that_takes_too_much_memory(marked: DecoderProcess, mark: str) -> None:
    refused = failed(marked, mark)
    assert refused.reason == "too_large_px"
    assert "needs more than 100,000,000 bytes of memory (max_decode_bytes)" in str(refused)


def test_an_image_that_crashes_the_codec(marked: DecoderProcess) -> None:
    refused = failed(marked, "crash")
    assert refused.reason == "corrupt" and "crashed the decoder (SIGSEGV)" in str(refused)


def test_being_killed_is_not_the_images_fault(marked: DecoderProcess) -> None:
    with pytest.raises(DecoderLost, match="SIGKILL"):
        decode(marked, with_mark("killed"))
    decode(marked, KINDS["jpeg"])


def test_a_bug_is_reported_and_ends_nothing(marked: DecoderProcess) -> None:
    decode(marked, KINDS["jpeg"])
    pid = marked.pid
    with pytest.raises(RuntimeError, match="ValueError: a bug"):
        decode(marked, with_mark("bug"))
    decode(marked, KINDS["jpeg"])
    assert marked.pid == pid


def test_a_process_that_ended_while_it_was_idle_is_replaced(helper: DecoderProcess) -> None:
    decode(helper, KINDS["jpeg"])
    pid = helper.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # all its threads have ended; not reaped
    decode(helper, KINDS["jpeg"])
    assert helper.pid != pid


def test_a_process_that_does_not_start_says_so(helper: DecoderProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_process, "_PROGRAM", "shared.no_such_module")
    with pytest.raises(DecoderLost, match="did not start"):
        decode(helper, KINDS["jpeg"])


# --- when it ends


def test_neither_ctrl_c_nor_sigterm_ends_it(helper: DecoderProcess) -> None:
    decode(helper, KINDS["jpeg"])
    pid = helper.pid
    assert pid is not None and os.getpgid(pid) != os.getpgid(0)
    for number in (signal.SIGINT, signal.SIGTERM):  # systemd tells all processes of a service
        os.kill(pid, number)
    decode(helper, KINDS["jpeg"])
    assert helper.pid == pid


STARTER = f"""
import sys, threading
import numpy as np
from shared.images import decoder_process
decoder_process._PROGRAM = {MARKED!r}
process = decoder_process.DecoderProcess()
out = np.zeros(({SIZE_PX}, {SIZE_PX}, 3), np.uint8)
data = open(sys.argv[1], "rb").read()
process.decode_into(data.partition(b"mark:")[0], out)
print(process.pid, flush=True)
process.decode_into(data, out, max_decode_s=float(sys.argv[2]))
"""


@linux_only
@pytest.mark.parametrize(("mark", "max_decode_s"), [("hang", 600), ("spin", 600), ("spin with the lock", 3)])
def test_it_ends_with_its_starter_even_while_it_decodes(tmp_path: Path, mark: str, max_decode_s: int) -> None:
    """At once, or when its time is over if the codec lets no other thread run."""
    (tmp_path / "image").write_bytes(with_mark(mark))
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "image"), str(max_decode_s)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert not is_gone(pid)
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    wait_until(lambda: is_gone(pid), "the decoder process ends")


def test_a_thread_that_ends_does_not_end_it(helper: DecoderProcess) -> None:
    """It would with PR_SET_PDEATHSIG, which looks at the thread that started it."""
    thread = threading.Thread(target=decode, args=(helper, KINDS["jpeg"]))
    thread.start()
    thread.join()
    pid = helper.pid
    decode(helper, KINDS["jpeg"])
    assert helper.pid == pid


@linux_only
def test_it_loads_no_tensorflow_and_gives_way_to_others(helper: DecoderProcess) -> None:
    decode(helper, KINDS["jpeg"])
    assert "tensorflow" not in Path(f"/proc/{helper.pid}/maps").read_text()
    assert int(Path(f"/proc/{helper.pid}/oom_score_adj").read_text()) >= 500
    assert os.getpriority(os.PRIO_PROCESS, helper.pid or 0) > os.getpriority(os.PRIO_PROCESS, 0)
