"""What `sortline bench` runs for which names, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import sortline.cli
from bench import run
from bench.commands import BENCHMARKS, USUAL
from bench.measuring.record import OnProgress, Record
from bench.output import plot
from bench.run import Options, run_all
from shared.errors import BadSetting, SortlineError
from shared.server.connection import connect
from shared.settings import Settings

OPTIONS = Options(
    rounds=1,
    jobs=100,
    sizes=["224x224", "640x480"],
    peers=True,
    seconds=1.0,
    deadline_ms=100.0,
    kinds=["real", "simulated"],
    single_jobs=1,
    idle_workers=1,
    images=100,
    shed_images=100,
    swaps=1,
    rate_hz=10.0,
    model=None,
    engine=None,
    max_batch=None,
    redis_url=None,
)


def ask(*arguments: str) -> list[str]:
    """The names that the command would have run."""
    asked: list[str] = []

    def record(names: list[str], options: Options, **rest: object) -> None:
        asked.extend(names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_all", record)
        done = CliRunner().invoke(sortline.cli.app, ["bench", *arguments])
        assert done.exit_code == 0, done.output
    return asked


def measured(settings: Settings, *, on_progress: OnProgress, **options: object) -> Record:
    """A benchmark that is done at once."""
    times = {"images": 1, "p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 1.0}
    group = {"workers": 1, "server": {"core_share": 0.1, "commands_per_s": 1.0}, "server_core_share_of_workers": 0.1}
    return {"benchmark": "idle", "crews": [group | {"pickup_ms": times, "capture_to_result_ms": times}]}


def test_every_name_runs_its_benchmark_in_a_fixed_order(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`line` runs once for each size, and two run once for each kind of engine."""
    ran: list[str] = []

    def noting(name: str) -> Callable[..., Record]:
        def benchmark(settings: Settings, *, size: str = "", kind: str = "", **options: object) -> Record:
            ran.append(f"{name} {size}{kind}".rstrip())
            return {"benchmark": name}

        return benchmark

    for name in BENCHMARKS:
        monkeypatch.setattr(run, f"bench_{name}", noting(name))
    monkeypatch.setattr(run, "draw", lambda document, path: None)
    options = replace(OPTIONS, redis_url=settings.redis_url, model="bottles")
    run_all(BENCHMARKS[::-1], options, out=tmp_path, as_json=True)
    of_kinds = {name: [f"{name} real", f"{name} simulated"] for name in ("latency", "recovery")}
    of_kinds["line"] = ["line 224x224", "line 640x480"]
    assert ran == [each for name in BENCHMARKS for each in of_kinds.get(name, [name])]
    ran.clear()
    run_all(["swaps"], options, out=tmp_path, as_json=True)
    assert ran == ["swaps"]


@pytest.mark.parametrize("server", [True, False])
def test_what_is_refused_leaves_no_output_folder(
    server: bool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORTLINE_MODEL_STORE", str(tmp_path / "models"))
    options = replace(OPTIONS, redis_url=settings.redis_url if server else None)
    with pytest.raises(SortlineError, match="sortline train"):
        run_all(["engine"], options, out=tmp_path / "out", as_json=True)
    if server:
        connect(settings.redis_url).set("used", 1)
        with pytest.raises(BadSetting, match="the database holds 1 keys"):
            run_all(["idle"], options, out=tmp_path / "out", as_json=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [["policies"], ["memory", "shed"], ["latency"], ["recovery"]])
def test_what_runs_no_real_engine_needs_no_model(
    names: list[str], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORTLINE_MODEL_STORE", str(tmp_path / "models"))
    for name in names:
        monkeypatch.setattr(run, f"bench_{name}", lambda settings, **options: {"benchmark": "shed"})
    monkeypatch.setattr(run, "draw", lambda document, path: None)
    options = replace(OPTIONS, redis_url=settings.redis_url, kinds=["simulated"])
    run_all(names, options, out=tmp_path / "out", as_json=True)
    assert list((tmp_path / "out").iterdir())


def test_how_long_it_runs_is_each_benchmarks_own_unless_told(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    def benchmark(settings: Settings, *, seconds: float, **options: object) -> Record:
        told.append(seconds)
        return {"benchmark": "shed"}

    for name in ("latency", "policies"):
        monkeypatch.setattr(run, f"bench_{name}", benchmark)
    monkeypatch.setattr(run, "draw", lambda document, path: None)
    options = replace(OPTIONS, redis_url=settings.redis_url, kinds=["simulated"])
    for seconds in (None, 2.0):
        run_all(["latency", "policies"], replace(options, seconds=seconds), out=tmp_path, as_json=True)
    assert told == [10.0, 30.0, 2.0, 2.0]


def test_an_unknown_kind_of_engine_is_a_usage_error_that_lists_the_known() -> None:
    done = CliRunner().invoke(sortline.cli.app, ["bench", "latency", "--kinds", "real,fast"])
    assert done.exit_code == 2
    assert all(name in done.output for name in ("fast", "simulated"))


def test_the_usual_ones_run_by_default() -> None:
    assert ask() == list(USUAL)
    assert ask("idle", "footprint") == ["idle", "footprint"]


def test_an_unknown_name_is_a_usage_error_that_lists_the_known() -> None:
    done = CliRunner().invoke(sortline.cli.app, ["bench", "quue"])
    assert done.exit_code == 2
    assert all(name in done.output for name in ("quue", "footprint"))


def test_what_is_run_is_written_with_the_machine_and_the_server_and_plotted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "bench_idle", measured)
    run_all(["idle"], OPTIONS, out=tmp_path / "out", as_json=True)
    document = json.loads(capsys.readouterr().out)
    (written,) = (tmp_path / "out").glob("*.json")
    assert json.loads(written.read_text()) == document
    assert document["machine"]["server"].startswith("valkey ")
    assert [record["benchmark"] for record in document["benchmarks"]] == ["idle"]
    with Image.open(written.with_suffix(".png")) as image:
        assert image.format == "PNG"


def test_the_files_are_written_although_the_reader_of_the_printed_lines_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(document: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(run, "bench_idle", measured)
    monkeypatch.setattr(run, "print_json", closed)
    with pytest.raises(BrokenPipeError):
        run_all(["idle"], OPTIONS, out=tmp_path, as_json=True)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".png"]


def test_without_matplotlib_all_but_the_plot_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(run, "bench_idle", measured)
    monkeypatch.setattr(plot, "matplotlib_installed", lambda: False)
    run_all(["idle"], OPTIONS, out=tmp_path, as_json=False)
    shown = capsys.readouterr()
    assert "sortline[train]" in shown.err
    assert "idle workers" in shown.out
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
