"""The process that writes an archive's files: what it is, and that nobody waits for it while it hangs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import is_gone, run_python
from tests.worker import kit
from tests.worker.archive.kit import archived, result_json
from tests.worker.kit import picture
from worker.archive import writer as writer_module
from worker.archive.writer import Writer, WriterEnded

LARGE = 10**9


@pytest.fixture
def writer(root: Path) -> Iterator[Writer]:
    writer = Writer(root, max_bytes=LARGE, retry_wait_s=0.01)
    yield writer
    writer.unanswered = 0  # so that closing waits for the end
    writer.close()


def answers(writer: Writer, count: int) -> list[tuple[str, str]]:
    """Wait for at least `count` answers."""
    found: list[tuple[str, str]] = []

    def enough() -> bool:
        found.extend(writer.exchange(0.1))
        return len(found) >= count

    kit.wait_until(enough, f"{count} answers come")
    return found


def pid_of(writer: Writer) -> int:
    assert writer.pid is not None
    return writer.pid


def test_images_are_written_and_answered_in_order(writer: Writer, root: Path) -> None:
    images = {f"j{number}": picture(number) + bytes(number * 1000) for number in range(200)}
    for job_id, image in images.items():
        writer.put(result_json(job_id), image)
    assert answers(writer, 201) == [("ready", ""), *[("written", "")] * 200]
    assert {job_id: image for job_id, (image, _) in archived(root).items()} == images
    assert writer.unanswered == 0 and not writer.is_sending


def test_it_holds_one_image_at_a_time(writer: Writer) -> None:
    """deploy/README.md counts on it."""
    answers(writer, 1)
    status = Path(f"/proc/{pid_of(writer)}/status")

    def peak_mb() -> float:
        return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))) / 1000

    empty_mb = peak_mb()
    for number in range(3):
        writer.put(result_json(f"j{number}"), bytes(20_000_000))
    answers(writer, 3)
    assert 15 < peak_mb() - empty_mb < 30


def test_a_bug_in_it_costs_one_image(writer: Writer, root: Path) -> None:
    writer.put(b"no JSON", picture())
    writer.put(result_json(), picture())
    kinds, texts = zip(*answers(writer, 4), strict=True)
    assert kinds == ("ready", "failed", "ready", "written")
    assert "JSONDecodeError" in texts[1] and "Traceback" in texts[1]
    assert set(archived(root)) == {"j1"}


def test_it_yields_to_the_sorting_and_holds_nothing_of_the_workers(writer: Writer) -> None:
    answers(writer, 1)
    pid = pid_of(writer)
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + 10
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{pid}/fd/2").startswith("pipe:"), "not the worker's log"
    assert os.getsid(pid) == pid, "Ctrl-C in a terminal goes to the worker alone"
    loaded = run_python(
        "import worker.archive.writer_program, sys; print(*{name.split('.')[0] for name in sys.modules})"
    )
    assert not {"numpy", "redis", "pydantic", "PIL", "prometheus_client"} & set(loaded.split())


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_it_ignores_signals_and_ends_when_its_input_closes(writer: Writer, root: Path) -> None:
    answers(writer, 1)
    pid = pid_of(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)
    writer.put(result_json(), picture())
    writer.exchange(1)
    writer.close()
    kit.wait_until(lambda: is_gone(pid), "it has ended")
    assert set(archived(root)) == {"j1"}


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_nobody_waits_for_one_that_hangs(writer: Writer, root: Path, pause: Callable[[int], None]) -> None:
    answers(writer, 1)
    pid = pid_of(writer)
    pause(pid)
    large = picture() + bytes(1_000_000)
    for number in range(5):
        writer.put(result_json(f"j{number}"), large)
        assert writer.exchange(0.01) == []
    assert writer.is_sending, "more than the pipe takes"
    writer.close()
    assert not is_gone(pid)
    os.kill(pid, signal.SIGCONT)
    kit.wait_until(lambda: is_gone(pid), "it has ended")
    assert all(image == large for image, _ in archived(root).values()), "an image that it got in part is not written"


def test_what_a_killed_one_had_not_written_is_lost_and_another_one_starts(
    writer: Writer, root: Path, monkeypatch: pytest.MonkeyPatch, pause: Callable[[int], None]
) -> None:
    monkeypatch.setattr(writer_module, "_RESTART_WAIT_S", 0.01)
    answers(writer, 1)
    pause(pid_of(writer))
    for number in range(3):
        writer.put(result_json(f"j{number}"), picture() + bytes(1_000_000))
        writer.exchange(0.01)
    os.kill(pid_of(writer), signal.SIGKILL)
    with pytest.raises(WriterEnded, match=r"the process that writes it ended \(SIGKILL\)") as caught:
        answers(writer, 1)
    assert caught.value.lost == 3
    assert archived(root) == {}
    writer.put(result_json("j9"), picture())
    assert answers(writer, 2) == [("ready", ""), ("written", "")]


def test_one_that_can_not_start_says_why(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the next start waits, not the caller. Here that would be an hour."""
    monkeypatch.setattr(writer_module, "_RESTART_WAIT_S", 3600.0)
    monkeypatch.setattr(writer_module, "own_command", lambda *_, **__: [sys.executable, "-c", "import no_such_module"])
    writer = Writer(root, max_bytes=LARGE, retry_wait_s=0.01)
    with pytest.raises(WriterEnded, match=r"\(exit code 1\): ModuleNotFoundError: No module named 'no_such_module'"):
        answers(writer, 1)
    assert writer.exchange(0.05) == []
    assert writer.pid is None
