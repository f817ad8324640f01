"""`sortline bench` runs, and its record is complete. What it measures is not asserted: machines differ."""

from __future__ import annotations

import json
from pathlib import Path

import redis
from PIL import Image

from shared.settings import Settings
from tests.e2e.kit import sortline


def test_queue_and_line_give_their_ratios(settings: Settings, tiny_models: Path, tmp_path: Path) -> None:
    """10,000 jobs of `queue`, as by default: two workers take a second, and both must come in time for some."""
    plant = settings.model_copy(update={"model_store": str(tiny_models), "model": "tiny"})
    arguments = ["bench", "queue", "line", "--rounds", "1", "--jobs", "1000", "--sizes", "224x224", "--json"]
    done = sortline(*arguments, settings=plant)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    line, queue = document["benchmarks"]
    assert (line["benchmark"], queue["benchmark"]) == ("line 224x224", "queue")
    assert queue["ratio_to_rq_simple_worker"] > 0
    assert line["ratio_to_no_queue"] > 0
    assert document["machine"]["cores"] > 0
    written = list((tmp_path / "bench-out").glob("*.json"))
    assert [json.loads(path.read_text()) for path in written] == [document]
    with Image.open(written[0].with_suffix(".png")) as plot:
        assert plot.format == "PNG"


def test_swaps_lose_nothing_and_give_both_times(settings: Settings, tiny_models: Path, tmp_path: Path) -> None:
    """Six: a promotion of each version, and a rollback."""
    plant = settings.model_copy(update={"model_store": str(tiny_models), "model": "tiny"})
    done = sortline("bench", "swaps", "--swaps", "6", "--rate", "20", "--json", settings=plant)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)["benchmarks"]
    assert (record["failed"], record["lost"], record["doubled"]) == (0, 0, 0)
    assert (record["swaps"], record["rollbacks"]) == (6, 1)
    assert set(record["per_version"]) == {"1", "2", "3"}
    assert sum(record["per_version"].values()) == record["images"]
    for name in ("with_swaps_ms", "without_swaps_ms"):
        assert record[name]["images"] > 0
        assert 0 < record[name]["p50"] <= record[name]["p99"] <= record[name]["max"]
    assert record["worker_resident_mb"]["before"] > 0


def test_a_database_in_use_is_not_emptied(settings: Settings, client: redis.Redis) -> None:
    client.set("precious", "1")
    done = sortline("bench", "queue", "--redis-url", settings.redis_url, settings=settings)
    assert done.returncode == 2
    assert "holds 1 keys" in done.stderr
    assert client.get("precious") == b"1"
