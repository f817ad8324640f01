"""A worker's own /metrics, /healthz and /readyz. tests/shared/test_status_server.py tests the HTTP server."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

import pytest
import redis

from shared.ports import free_port
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame
from worker.models.loading import LoadedModel
from worker.observe.metrics import Metrics
from worker.observe.supervisor import Supervisor
from worker.service import WorkerService


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=kit.PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.usefixtures("own_signals")
def test_a_worker_is_ready_once_its_model_is_loaded(settings: Settings) -> None:
    port = free_port()
    seen: dict[str, tuple[int, str]] = {}

    def look(batch: kit.Pixels) -> None:
        seen["ready at work"], seen["health at work"] = get(port, "/readyz"), get(port, "/healthz")
        seen["metrics at work"] = get(port, "/metrics")

    def load(given: Settings) -> LoadedModel:
        seen["ready at load"], seen["health at load"] = get(port, "/readyz"), get(port, "/healthz")
        return kit.loaded_model(given, ToneEngine(look))

    kit.submit(settings, frame())
    with_port = settings.model_copy(update={"metrics_port": port})
    assert WorkerService(with_port, burst=True, load=load).run() == 0
    assert seen["ready at load"] == (503, "the model is being loaded\n")
    assert seen["health at load"] == (200, "ok\n")
    assert seen["ready at work"] == seen["health at work"] == (200, "ok\n")
    assert 'sortline_model_info{engine="litert",name="tone",version="3"} 1.0' in seen["metrics at work"][1]
    assert "sortline_inflight_jobs 1.0" in seen["metrics at work"][1]
    assert 'sortline_queue_depth{queue="live"} 0.0' in seen["metrics at work"][1]
    with pytest.raises(urllib.error.URLError):
        get(port, "/healthz")


STUCK_AFTER_S = 60.0


def test_a_worker_is_not_ready_while_the_server_is_away(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    service = WorkerService(away)
    service._pipeline = service._build(kit.model())
    service._pipeline.start()
    kit.wait_until(lambda: "no Redis server answers" in (service._ready_problem() or ""), "it says what fails")
    assert service._health_problem() is None, "it would be restarted, which can't bring the server back"
    service._pipeline.drain()
    kit.finish(service._pipeline)


def test_a_loop_that_dies_is_unhealthy() -> None:
    supervisor = Supervisor(Metrics(), redis_url="redis://here")

    def die() -> None:
        raise RuntimeError("boom")

    supervisor.start("claim", die)
    assert supervisor.failed.wait(kit.PATIENCE_S)
    assert "died" in (supervisor.health_problem(stuck_after_s=STUCK_AFTER_S) or "")


def test_a_loop_that_hangs_is_unhealthy_until_it_comes_round() -> None:
    now, stop = [0.0], threading.Event()
    supervisor = Supervisor(Metrics(), redis_url="redis://here", clock=lambda: now[0])
    supervisor.start("infer", stop.wait)
    assert supervisor.health_problem(stuck_after_s=STUCK_AFTER_S) is None
    now[0] += STUCK_AFTER_S + 1
    assert "the infer thread has not reported" in (supervisor.health_problem(stuck_after_s=STUCK_AFTER_S) or "")
    supervisor.heartbeat("infer")
    assert supervisor.health_problem(stuck_after_s=STUCK_AFTER_S) is None
    stop.set()
    assert supervisor.join(kit.PATIENCE_S)
    now[0] += STUCK_AFTER_S + 1
    assert supervisor.health_problem(stuck_after_s=STUCK_AFTER_S) is None, "a loop that has ended is not stuck"


def test_a_loop_that_waits_for_the_server_is_not_stuck() -> None:
    """A restart would not make the server answer; readiness says what is missing."""
    now, stop, asked = [0.0], threading.Event(), threading.Event()
    supervisor = Supervisor(Metrics(), redis_url="redis://here", clock=lambda: now[0])

    def ask() -> None:
        with supervisor.calling_redis("claim"):
            asked.set()
            stop.wait()

    supervisor.start("claim", ask)
    assert asked.wait(kit.PATIENCE_S)
    assert supervisor.redis_problem() is None
    now[0] += 1_000
    assert supervisor.health_problem(stuck_after_s=STUCK_AFTER_S) is None
    assert supervisor.redis_problem() == "Redis has not answered claim for 1000 s"
    stop.set()
    assert supervisor.join(kit.PATIENCE_S)
    assert supervisor.redis_problem() is None


def test_the_server_has_recovered_only_when_no_step_fails_any_more(caplog: pytest.LogCaptureFixture) -> None:
    """Claims that succeed must not hide that no result can be written."""
    supervisor = Supervisor(Metrics(), redis_url="redis://here")
    supervisor.redis_unavailable("finish", redis.exceptions.ReadOnlyError("a replica"))
    with caplog.at_level("INFO"), supervisor.calling_redis("claim"):
        pass
    assert (supervisor.redis_problem() or "").startswith("finish: the Redis server is a replica")
    assert "answers again" not in caplog.text
    with caplog.at_level("INFO"), supervisor.calling_redis("finish"):
        pass
    assert supervisor.redis_problem() is None
    assert "answers again" in caplog.text
