"""rq-dashboard, started as docs/messages.md says, shows and controls our jobs and workers."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from rq.worker import WorkerStatus

from shared.ports import free_port
from shared.settings import Settings
from tests.kit import PATIENCE_S, wait_until
from tests.worker import kit
from tests.worker.kit import Gate, ToneEngine, frame
from worker.rq.registration import RqRegistration

pytestmark = pytest.mark.slow  # it starts the dashboard


class Dashboard:
    """Fetches what its pages fetch, and presses its buttons."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/{path}", timeout=PATIENCE_S) as answer:
            return json.loads(answer.read())

    def post(self, path: str) -> Any:
        request = urllib.request.Request(f"{self._url}/{path}", method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.loads(answer.read())

    def answers(self) -> bool:
        try:
            self.get("0/data/queues.json")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def jobs(self, queue: str, registry: str) -> list[dict[str, Any]]:
        found = self.get(f"0/data/jobs/{queue}/{registry}/10/dsc/1.json")["jobs"]
        assert isinstance(found, list)
        return found


@pytest.fixture
def dashboard(settings: Settings, tmp_path: Path) -> Iterator[Dashboard]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("rq-dashboard")), "--json", "--bind", "127.0.0.1"]
    command += ["--port", str(port), "--redis-url", settings.redis_url]
    log = tmp_path / "dashboard.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        dashboard = Dashboard(f"http://127.0.0.1:{port}")
        wait_until(lambda: process.poll() is not None or dashboard.answers(), "the dashboard answers")
        assert process.poll() is None, log.read_text()
        yield dashboard
    finally:
        process.kill()
        process.wait()


def test_jobs_of_every_state(dashboard: Dashboard, settings: Settings, client: redis.Redis) -> None:
    good, bad = kit.submit(settings, frame(), frame(kit.picture(255)))
    assert [queue["name"] for queue in dashboard.get("0/data/queues.json")["queues"]] == ["live"]
    assert {job["id"] for job in dashboard.jobs("live", "queued")} == {good, bad}
    kit.run_burst(settings, ToneEngine(kit.fails_on_red))
    assert [job["id"] for job in dashboard.jobs("live", "finished")] == [good]
    (failed,) = dashboard.jobs("live", "failed")
    assert failed["id"] == bad
    assert "can't stand red" in failed["exc_info"]
    shown = dashboard.get(f"0/data/job/{good}.json")
    assert shown["status"] == "finished"
    assert shown["result"]["outcome"] == "sorted"
    assert shown["description"] == "sort l1/c1 frame None"


def test_workers(dashboard: Dashboard, settings: Settings, client: redis.Redis) -> None:
    """The page of workers fails while one of them holds a job: rq-dashboard 0.9 always reads that job as pickle.

    When this test fails because a newer version no longer does, change docs/messages.md, which describes this.
    """
    RqRegistration(client, name="w1", queues=settings.queue_names).register(state=WorkerStatus.IDLE)
    (worker,) = dashboard.get("0/data/workers.json")["workers"]
    assert (worker["name"], worker["state"], worker["queues"]) == ("w1", "idle", ["live", "bulk"])
    gate = Gate()
    kit.submit(settings, frame())
    run = kit.pipeline(settings, kit.pipeline_components(settings, ToneEngine(gate)), burst=True)
    run.start()
    assert gate.entered.wait(PATIENCE_S)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        dashboard.get("0/data/workers.json")
    assert dashboard.jobs("live", "queued") == []
    gate.opened.set()
    kit.finish(run)
    assert len(dashboard.jobs("live", "finished")) == 1


def test_its_requeue_button(dashboard: Dashboard, settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    kit.run_burst(settings, ToneEngine(kit.always_fails))
    assert dashboard.post(f"job/{job_id}/requeue") == {"status": "OK"}
    kit.run_burst(settings)
    assert [result.outcome.value for result in kit.stream(client)] == ["failed", "sorted"]
    assert kit.fetch(client, job_id).get_status() == "finished"
