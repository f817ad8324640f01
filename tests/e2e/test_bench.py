"""`sortline bench` runs, and its record is complete. What it measures is not asserted: machines differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis
from PIL import Image

from shared.settings import Settings
from tests.e2e.kit import sortline

pytestmark = pytest.mark.e2e


def test_line_gives_its_ratios(settings: Settings, tiny_models: Path, tmp_path: Path) -> None:
    plant = settings.model_copy(update={"model_store": str(tiny_models), "model": "tiny"})
    done = sortline("bench", "line", "--rounds", "1", "--jobs", "100", "--sizes", "224x224", "--json", settings=plant)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (line,) = document["benchmarks"]
    assert line["benchmark"] == "line 224x224"
    assert line["ratio_to_no_queue"] > 0
    assert line["ratio_to_rq_simple_worker_tensorflow"] > 0
    assert document["machine"]["cores"] > 0
    written = list((tmp_path / "bench-out").glob("*.json"))
    assert [json.loads(path.read_text()) for path in written] == [document]
    with Image.open(written[0].with_suffix(".png")) as plot:
        assert plot.format == "PNG"


def test_a_database_in_use_is_not_emptied(settings: Settings, client: redis.Redis) -> None:
    client.set("precious", "1")
    done = sortline("bench", "queue", "--redis-url", settings.redis_url, settings=settings)
    assert done.returncode == 2
    assert "holds 1 keys" in done.stderr
    assert client.get("precious") == b"1"
