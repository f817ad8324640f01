"""Each benchmark runs small on a real server; its record is complete and agrees with itself. No time is asserted."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import redis

from bench.benchmarks import engine, footprint, idle, latency, memory, recovery, scaling, shed, swaps
from bench.benchmarks.engine import bench_engine
from bench.benchmarks.footprint import bench_footprint
from bench.benchmarks.idle import bench_idle
from bench.benchmarks.latency import bench_latency
from bench.benchmarks.memory import bench_memory, bound_of
from bench.benchmarks.queue import bench_queue, with_step_batches
from bench.benchmarks.recovery import bench_recovery
from bench.benchmarks.scaling import bench_scaling
from bench.benchmarks.shed import bench_shed
from bench.benchmarks.steady import bench_steady
from bench.benchmarks.swaps import bench_swaps
from bench.contenders import sortline_worker
from bench.contenders.worker_processes import drain_queues, idle_workers
from bench.engines import KINDS, null, simulated
from bench.engines.null import null_model
from bench.engines.simulated import GPU_LIKE, gpu_like_model
from bench.measuring import traffic
from bench.measuring.traffic import TrafficSpec, send
from shared import keys
from shared.errors import BadSetting, NotFound, Transient
from shared.settings import Settings
from tests.bench.meeting import meeting_null_model, meeting_simulated_model
from tests.kit import PROJECT
from tests.worker.models.versions import own_versions, unusable_fp32
from worker.models.loading import LoadedModel

pytestmark = pytest.mark.bench

SIZE = "64x48"


@pytest.fixture
def plant(settings: Settings, tiny_models: Path) -> Settings:
    return settings.model_copy(update={"model_store": str(tiny_models), "model": "tiny", "engine": "litert"})


@pytest.fixture(autouse=True)
def _few_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing one frame takes about 20 ms of a core, in each of a benchmark's many cameras."""
    for module in (traffic, sortline_worker):
        monkeypatch.setattr(module, "REPLAYED", 4)


def on_progress(text: str) -> None:
    """Ignores the text."""


def null_model_unless_nobody(settings: Settings) -> LoadedModel:
    if settings.model == "nobody":
        raise NotFound("no such model")
    return null_model(settings)


def test_each_engine_that_runs_is_measured_at_each_size(plant: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "runnable_engines", lambda: ("litert", "litert-fp32"))
    record = bench_engine(plant, rounds=2, measure_s=0.01, on_progress=on_progress)
    assert record["model"] == "tiny@1"
    assert set(record["images_per_s"]) == {"litert", "litert-fp32"}
    assert record["left_out"] == {}
    ratios = {}
    for name, by_size in record["images_per_s"].items():
        assert list(by_size) == ["1", "4", "16", "64"]
        for size, figures in by_size.items():
            assert 0 < figures["min"] <= figures["median"] <= figures["max"]
            ratios[name, int(size)] = record["ratio_to_best"][name][size]
    best = record["best"]
    assert max(ratios.values()) == ratios[best["engine"], best["batch"]] == 1.0


def test_an_engine_that_cannot_be_opened_is_left_out_and_says_why(
    settings: Settings, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions, plant = own_versions(settings, tiny_models)
    versions.publish(build=unusable_fp32)
    monkeypatch.setattr(engine, "runnable_engines", lambda: ("litert", "litert-fp32"))
    record = bench_engine(plant, rounds=1, measure_s=0.01, on_progress=on_progress)
    assert set(record["images_per_s"]) == {"litert"}
    assert "model.fp32.tflite can't be loaded" in record["left_out"]["litert-fp32"]


@pytest.mark.parametrize("kind", KINDS)
def test_latency_accounts_for_every_frame_at_every_load(
    kind: str, plant: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "STEADY", (50,))
    monkeypatch.setattr(latency, "OVERLOAD", (300,))
    record = bench_latency(
        plant, kind=kind, rounds=1, jobs=100, seconds=0.5, deadline_ms=2000, size=SIZE, on_progress=on_progress
    )
    if kind == "real":
        assert record["model"] == {"name": "tiny", "version": 1, "engine": "litert"}
    else:
        assert record["engine_images_per_s"] == pytest.approx(200)
    capacity = record["capacity_images_per_s"]["median"]
    assert [load["percent"] for load in record["loads"]] == [50, 300]
    for load in record["loads"]:
        assert load["asked_images_per_s"] == pytest.approx(capacity * load["percent"] / 100, rel=0.01)
        # The record rounds the capacity to a tenth, which is less than one frame here.
        assert load["frames"] == pytest.approx(capacity * load["percent"] / 100 * 0.5, abs=1.0)
        refused = sum(load["refused"].values())
        assert sum(load["outcomes"].values()) + refused == load["frames"]
        times = load["capture_to_result_ms"]
        assert times["images"] == load["frames"] - refused
        assert 0 < times["p50"] <= times["p95"] <= times["p99"] <= times["max"]
        assert load["sorted_share"] == pytest.approx(load["outcomes"]["sorted"] / load["frames"], abs=1e-4)
        assert load["achieved_images_per_s"] > 0
        shares = load["share_of_cores"]
        # In a time this short a share may come out above 1: processor time is counted in steps of 10 ms.
        assert all(shares[name] >= 0 for name in ("cameras", "server", "worker", "others"))
        assert shares["left_for_worker"] == pytest.approx(1 - shares["cameras"] - shares["server"], abs=1e-3)
        assert (load["sorted_to_what_cameras_leave"] is None) == (kind != "real")
    best = record["best_images_per_s"]["median"]
    assert best == max(load["sorted_images_per_s"]["median"] for load in record["loads"])
    assert max(load["sorted_to_best"] for load in record["loads"]) == 1.0


def test_frames_that_find_the_queue_full_are_counted(plant: Settings, tmp_path: Path) -> None:
    bounded = plant.model_copy(update={"queue_max_items": 10, "line_share": 1.0})
    sent = send(bounded, TrafficSpec(line="l", count=30, rate_hz=5000.0, size=SIZE), folder=tmp_path)
    assert (sent.frames, sent.accepted, sent.refused_count, sent.cameras) == (30, 10, 20, 3)


def test_recovery_compares_the_time_after_an_overload_with_the_time_before(
    plant: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("SETTLE_S", 0.5), ("BEFORE_S", 2.0), ("AFTER_S", 3.0), ("_CAMERAS_START_S", 2.0)):
        monkeypatch.setattr(recovery, name, seconds)
    record = bench_recovery(
        plant, kind="simulated", jobs=100, seconds=1.0, deadline_ms=60_000, size=SIZE, on_progress=on_progress
    )
    assert record["before_p99_ms"] > 0
    assert record["recovery_s"] is None or record["recovery_s"] >= 0
    assert record["overload_sent_images_per_s"] > 0
    at = [second for second, _ in record["window_p99_ms"]]
    assert at == sorted(at)
    assert at[0] < 0


def test_steady_gives_the_misses_beside_those_of_the_control(plant: Settings) -> None:
    record = bench_steady(plant, jobs=100, seconds=0.5, deadline_ms=60_000, size=SIZE, on_progress=on_progress)
    assert sum(record["outcomes"].values()) + sum(record["refused"].values()) == record["frames"]
    assert (record["misses"], record["misses_beyond_control"]) == (0, 0)  # nobody misses a deadline of a minute
    assert record["control"]["priority"] in {"realtime", "normal"}
    assert 0 < record["margin_ms"] < 60_000
    assert record["capture_to_result_ms"]["p50"] > 0


def test_memory_accounts_for_every_image_that_was_pushed(plant: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SIZES_BYTES", (50_000,))
    monkeypatch.setattr(memory, "MAX_IMAGES", 60)
    bounded = plant.model_copy(update={"queue_max_items": 20, "line_share": 1.0})
    record = bench_memory(bounded, seconds=60.0, on_progress=on_progress)
    cases = {(case["image_bytes"], case["worker"]): case for case in record["cases"]}
    assert set(cases) == {(50_000, False), (50_000, True)}
    for case in cases.values():
        assert case["accepted"] + sum(case["refused"].values()) == case["pushed"] == 60
        assert case["peak_mb"] >= case["before_mb"] > 0
        assert not case["ended_as_bound_was_broken"]
    assert cases[50_000, False]["accepted"] == cases[50_000, False]["waiting_at_end"] == 20
    assert cases[50_000, True]["waiting_at_end"] == 0
    assert record["bound_mb"] > plant.queue_max_bytes / 1e6


def test_the_bound_of_memory_is_what_the_docs_promise() -> None:
    page = " ".join((PROJECT / "docs/sizing.md").read_text().split())
    assert "take at most 620 MB" in page and "a claim of each worker, of at most 24 MB" in page
    calls = memory.PRODUCERS * max(memory.SIZES_BYTES)
    assert bound_of(Settings()) == 620_000_000 + calls + 24_000_000


def test_memory_refuses_a_server_on_another_machine(plant: Settings) -> None:
    away = plant.model_copy(update={"redis_url": "redis://user:secret@plant.example:6379/0"})
    with pytest.raises(BadSetting, match=r"plant\.example.*needs a server on this machine") as raised:
        bench_memory(away, seconds=1.0, on_progress=on_progress)
    assert "secret" not in str(raised.value)


def test_memory_ends_a_run_that_breaks_the_bound(plant: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIZES_BYTES": (200_000,), "GIVE_UP_FACTOR": 0.02, "MAX_IMAGES": 1000}.items():
        monkeypatch.setattr(memory, name, value)
    record = bench_memory(plant.model_copy(update={"line_share": 1.0}), seconds=60.0, on_progress=on_progress)
    without_worker = record["cases"][0]
    assert without_worker["ended_as_bound_was_broken"]
    assert without_worker["peak_to_bound"] > 0.02


def test_shed_gives_the_time_of_an_expired_and_of_a_refused_image(
    plant: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shed, "SIZE", SIZE)
    record = bench_shed(plant, rounds=1, images=2_000, on_progress=on_progress)
    expired, refused = record["expired_us_per_image"], record["refused_us_per_image"]
    too_late = record["refused_by_deadline_us_per_image"]
    for figures in (expired["worker"], *(each[who] for each in (refused, too_late) for who in ("camera", "server"))):
        assert figures["median"] >= 0
    assert expired["both"]["median"] > 0
    assert refused["both"]["median"] > 0
    assert too_late["both"]["median"] > 0
    assert record["refused"] == {"items": 2_000, "deadline": 2_000}


def test_queue_gives_its_ratios(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers take 600 jobs so fast that the second might get none, so they wait for each other."""
    monkeypatch.setattr(null, "null_model", meeting_null_model)
    record = bench_queue(settings, rounds=1, jobs=600, on_progress=on_progress)
    rates = {key: record[f"{key}_jobs_per_s"]["median"] for key in ("sortline", "bare_scripts", "rq_simple_worker")}
    for other in ("bare_scripts", "rq_simple_worker"):
        assert record[f"ratio_to_{other}"] == pytest.approx(rates["sortline"] / rates[other], rel=0.01)
    assert record["ratio_two_to_one"] > 0
    assert record["image_bytes_mean"] > 10_000


def test_the_queue_is_measured_in_the_bare_scripts_batches_unless_told(settings: Settings) -> None:
    assert "max_batch" not in settings.model_fields_set
    assert with_step_batches(settings).max_batch == 32
    assert with_step_batches(settings.model_copy(update={"max_batch": 16})).max_batch == 16


def test_a_camera_that_fails_is_quoted(plant: Settings, tmp_path: Path) -> None:
    with pytest.raises(Transient, match=r"a camera ended with 2.*size = 'wide'"):
        send(plant, TrafficSpec(line="l", count=5, size="wide"), folder=tmp_path)


def test_scaling_gives_a_point_for_each_group(plant: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "REAL_WORKERS", (1,))
    monkeypatch.setattr(scaling, "SIMULATED_WORKERS", (1, 2))
    monkeypatch.setattr(simulated, "gpu_like_model", meeting_simulated_model)
    record = bench_scaling(plant, rounds=1, jobs=200, simulated_s=0.5, on_progress=on_progress)
    assert record["left_out"] == {}
    (real,) = record["real"]["points"]
    assert (real["workers"], real["servers"], real["images"]) == (1, 1, 200)
    points = record["simulated"]["points"]
    assert [(point["workers"], point["servers"]) for point in points] == [(1, 1), (2, 1), (2, 2)]
    for point in points:
        rate = point["jobs_per_s"]["median"]
        assert rate > 0
        of_engines = rate / point["workers"] / GPU_LIKE.full_rate(plant.max_batch)
        assert point["used_share"]["engine"] == pytest.approx(of_engines, abs=1e-3)
        assert point["ratio_to_one_worker"] > 0
        assert point["server_us_per_job"] > 0
        assert point["worker_us_per_job"] > 0
        assert set(point["used_share"]) == {"server", "cores", "engine"}
        assert point["limited_by"] in {"server", "cores", "engine", "other"}


def test_idle_times_single_images_and_counts_what_waiting_costs(
    plant: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker asks every half second. If the server were watched for less, it might not be asked at all."""
    monkeypatch.setattr(idle, "SETTLE_S", 0.2)
    record = bench_idle(plant, jobs=5, workers=3, watch_s=3.0, on_progress=on_progress)
    assert [group["workers"] for group in record["crews"]] == [1, 3]
    assert record["server_alone"]["commands_per_s"] >= 0
    for group in record["crews"]:
        assert group["pickup_ms"]["images"] == group["capture_to_result_ms"]["images"] == 5
        assert group["pickup_ms"]["p50"] <= group["capture_to_result_ms"]["p50"]
        assert group["server"]["commands_per_s"] > record["server_alone"]["commands_per_s"]


def test_idle_workers_are_registered_and_end_with_the_block(plant: Settings, client: redis.Redis) -> None:
    with idle_workers(plant, null_model, count=3, client=client, on_progress=on_progress):
        assert client.scard(keys.RQ_WORKERS) == 3
        pids = {int(client.hget(worker, "pid") or 0) for worker in client.smembers(keys.RQ_WORKERS)}
        assert len(pids) == 3
    assert client.scard(keys.RQ_WORKERS) == 0
    assert not multiprocessing.active_children()


def test_swaps_lose_nothing_and_give_both_times(plant: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six swaps include a promotion of each version, and a rollback."""
    for name in ("PAUSE_S", "POLL_S", "SETTLE_S"):
        monkeypatch.setattr(swaps, name, 0.2)
    record = bench_swaps(plant, swaps=6, rate_hz=20, on_progress=on_progress)
    assert (record["failed"], record["lost"], record["doubled"]) == (0, 0, 0)
    assert (record["swaps"], record["rollbacks"]) == (6, 1)
    assert set(record["per_version"]) == {"1", "2", "3"}
    assert sum(record["per_version"].values()) == record["images"]
    for name in ("with_swaps_ms", "without_swaps_ms"):
        assert record[name]["images"] > 0
        assert 0 < record[name]["p50"] <= record[name]["p99"] <= record[name]["max"]
    assert record["worker_resident_mb"]["before"] > 0


def test_footprint_gives_start_times_and_memory_by_images(plant: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "FIRST_IMAGES", 100)
    monkeypatch.setattr(footprint, "SIZE", SIZE)
    record = bench_footprint(plant, rounds=1, images=300, on_progress=on_progress)
    assert record["ready_s"]["median"] > 0
    assert record["first_result_s"]["median"] > 0
    after = {int(images): mb for images, mb in record["resident_mb_after"].items()}
    assert (min(after), max(after)) == (100, 300)
    memory = record["resident_mb"]
    assert (memory["first"], memory["last"], memory["most"]) == (after[100], after[300], max(after.values()))
    assert memory["first"] > 10


def test_a_group_in_which_one_worker_cannot_load_says_why(plant: Settings) -> None:
    """The other worker only waited for it in vain, so its error is not the cause."""
    with pytest.raises(NotFound, match="no such model"):
        drain_queues([plant, plant.model_copy(update={"model": "nobody"})], null_model_unless_nobody)


def test_a_group_empties_all_its_queues(plant: Settings, client: redis.Redis, tmp_path: Path) -> None:
    send(plant, TrafficSpec(line="l", count=200, size=SIZE), folder=tmp_path)
    assert drain_queues([plant], gpu_like_model) > 0
    found = traffic.results(client, "l")
    assert len({result.job_id for result in found}) == traffic.answered(client, "l") == 200


def test_a_wait_in_vain_is_reported(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "PATIENCE_S", 0.1)
    with pytest.raises(Transient, match="0 results instead of 1 on line nobody"):
        traffic.wait_answered(client, "nobody", count=1)
