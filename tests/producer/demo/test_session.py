"""The demo's order, arithmetic and pictures; the whole demo, with its processes, runs in tests/e2e."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest
import redis
from PIL import Image
from prometheus_client import CollectorRegistry
from rich.console import Console

from producer.demo import live_table, session
from producer.demo.contact_sheet import CELL_PX, SHEET_CELLS, Cell, chosen_cells, write_sheet
from producer.demo.session import Demo, DemoOptions
from producer.demo.statistics import ResultStatistics
from producer.sources.simulator import SimulatedSource
from shared import keys
from shared.schemas import Label, ModelRef, Outcome, SortResult, Timings
from shared.settings import Settings
from shared.status_server import StatusServer
from tests.kit import BOTTLES


def _result(number: int, *, outcome: Outcome = Outcome.SORTED, labels: tuple[str, ...] = ("good",)) -> SortResult:
    return SortResult(
        job_id=f"job-{number}",
        line="line-1",
        camera="cam-1",
        frame_id=number,
        captured_at=1000.0 + number,
        finished_at=1030.0 + number + 0.010 * (number + 1),  # the server's clock is 30 s ahead
        outcome=outcome,
        labels=tuple(Label(label=label, probability=0.9) for label in labels),
        lane="good",
        model=ModelRef(name="bottles", version=3, engine="litert"),
        timings_ms=Timings(total=10.0 * (number + 1)),
        worker="w",
    )


def _statistics(results: list[SortResult]) -> ResultStatistics:
    statistics = ResultStatistics(lambda result: frozenset({"good"}) if result.frame_id != 2 else frozenset({"no cap"}))
    for result in results:
        statistics.add(result)
    return statistics


def test_counts_rates_and_percentiles() -> None:
    statistics = _statistics([_result(number) for number in range(5)])
    assert (statistics.count, statistics.doubled, statistics.classified, statistics.exact) == (5, 0, 5, 4)
    assert statistics.percentiles_ms([0, 50, 100]) == pytest.approx([10.0, 30.0, 50.0])
    assert statistics.rate() == pytest.approx(4 / (1004.050 - 1000.010))
    assert statistics.rate_now(1004.050) == pytest.approx(5 / 5.0)
    assert statistics.rate_now(1008.0) == pytest.approx(2 / 5.0)
    assert statistics.model == "bottles@3 on litert"


def test_a_second_result_of_a_job_shows() -> None:
    statistics = _statistics([_result(1), _result(1)])
    assert (statistics.count, statistics.doubled, len(statistics.seen)) == (2, 1, 1)


def test_what_was_not_classified_is_not_called_wrong() -> None:
    statistics = _statistics([_result(1, outcome=Outcome.EXPIRED, labels=()), _result(3)])
    assert (statistics.count, statistics.classified, statistics.exact) == (2, 1, 1)


def test_statistics_without_results_have_values_too() -> None:
    statistics = _statistics([])
    assert (statistics.rate(), statistics.percentiles_ms([50])) == (0.0, [0.0])
    assert live_table.line(statistics, depth=3, now=0.0) == "no results yet, 3 waiting"
    console = Console(width=100, record=True)
    console.print(live_table.table(statistics, depth=0, now=0.0, seconds_left=4.0))
    assert "0.0 ms" not in console.export_text()


def test_the_board_shows_outcomes_lanes_and_the_queue() -> None:
    console = Console(width=100, record=True)
    console.print(live_table.table(_statistics([_result(1), _result(2)]), depth=17, now=1003.0, seconds_left=4.0))
    text = console.export_text()
    for shown in ("17", "sorted 2", "good 2", "line-1 2", "50% of 2", "4 s left", "bottles@3"):
        assert shown in text


def test_the_contact_sheet_has_a_framed_cell_for_each_bottle(tmp_path: Path) -> None:
    data = sorted(BOTTLES.glob("*.jpg"))[0].read_bytes()
    right = Cell(data=data, labels=(("good", 0.9),), truth=frozenset({"good"}), lane="good")
    wrong = Cell(data=data, labels=(("good", 0.9),), truth=frozenset({"no cap"}), lane="good")
    write_sheet([right, wrong], tmp_path / "sheet.png", title="two")
    with Image.open(tmp_path / "sheet.png") as sheet:
        frames = [sheet.getpixel((cell * CELL_PX + 3, 60)) for cell in (0, 1)]
        center = sheet.getpixel((CELL_PX // 2, 120))
    assert frames == [(0x1A, 0x7F, 0x37), (0xC0, 0x39, 0x2B)]
    assert center != (255, 255, 255)


# the order of a demo ────────────────────────────────────────────────────────────────────────────────


class Commands:
    """In place of the demo's processes: a worker that is ready when it is asked again, and cameras that end at once.

    The images have no results until the demo sleeps after the cameras have ended. `events` says what happened.
    """

    def __init__(self, client: redis.Redis, *, accepted: int) -> None:
        self.events: list[str] = []
        self._client = client
        self._accepted = accepted

    def child(
        self, arguments: list[str], *, log: Path, variables: Mapping[str, str], out: Path | None = None
    ) -> Command:
        """In place of `Child`."""
        assert "SORTLINE_REDIS_URL" in variables  # not in the arguments, which everybody can read
        assert "--redis-url" not in arguments
        self.events.append(f"{arguments[0]} begins")
        if out is not None:
            out.write_text(json.dumps({"accepted": self._accepted}))
            return Command(exit_code=0)
        port = int(arguments[arguments.index("--metrics-port") + 1])
        probes = {"/readyz": self._what_is_wrong}
        return Command(StatusServer(host="127.0.0.1", port=port, registry=CollectorRegistry(), probes=probes))

    def _what_is_wrong(self) -> str | None:
        is_ready = "worker is not ready" in self.events
        event = "worker is ready" if is_ready else "worker is not ready"
        if event not in self.events:  # on a slow machine the demo asks again
            self.events.append(event)
        return None if is_ready else "the model is being loaded"

    def sleep(self, seconds: float) -> None:
        """In place of `time.sleep`."""
        if self.events[-1] == "camera begins":
            self.events.append("results come")
            for number in range(self._accepted):
                self.answer(number)
        time.sleep(0.001)

    def answer(self, number: int) -> None:
        """Write a result as a worker does."""
        self._client.sadd(keys.LINES, "line-1")
        self._client.xadd(keys.results("line-1"), {"result": _result(number).model_dump_json()})


class Command:
    """One of the processes: a worker that answers probes until it is ended, or a camera that has ended."""

    def __init__(self, probes: StatusServer | None = None, *, exit_code: int | None = None) -> None:
        self._probes = probes
        self._exit_code = exit_code
        if probes is not None:
            probes.start()

    def poll(self) -> int | None:
        return self._exit_code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._probes is not None:
            self._probes.stop()


def test_cameras_wait_for_the_worker_and_the_demo_waits_for_the_last_results(
    settings: Settings, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(client, accepted=2)
    commands.answer(7)  # of an earlier demo
    monkeypatch.setattr(session, "Child", commands.child)
    options = DemoOptions(seconds=1.0, rate_hz=2.0, lines=1, out=tmp_path)
    summary = Demo(settings, options, console=Console(file=io.StringIO()), sleep=commands.sleep).run()
    assert commands.events == [
        "worker begins",
        "worker is not ready",
        "worker is ready",
        "camera begins",
        "results come",
    ]
    assert (summary.submitted, summary.results, summary.missing, summary.doubled) == (2, 2, 0, 0)
    assert summary.complete


def test_the_contact_sheet_shows_each_bottle_once() -> None:
    """All lines show the same bottles, each in its own order."""
    sources = {line: SimulatedSource(line, seed=0, pool=session.POOL) for line in ("line-1", "line-2")}
    results = [_result(number).model_copy(update={"line": line}) for number in range(SHEET_CELLS) for line in sources]
    bottles: dict[bytes, str] = {}
    for result in results:
        frame = sources[result.line].frame(int(result.frame_id or 0))
        bottles[frame.data] = frame.source_name
    names = [bottles[cell.data] for cell in chosen_cells(results, sources)]
    assert len(names) == SHEET_CELLS
    assert len(set(names)) == len(names)
