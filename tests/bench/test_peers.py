"""Each peer really does the work, on a real server; one that is not installed is named."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from bench.benchmarks import line, queue
from bench.contenders.queue_filler import QueueFiller
from bench.contenders.sortline_worker import LINE, bench_settings, fill_queue
from bench.measuring.rates import Contender, Rates
from bench.measuring.record import Record
from bench.peers import PEERS_HINT, TENSORFLOW_HINT, celery_missing, mosec_missing
from bench.peers.celery_batches import celery_batches_rate
from bench.peers.http_load import post_all
from bench.peers.mosec import mosec_rate
from bench.peers.rq_shipped import rq_worker_null_rate, rq_worker_rate
from shared import keys
from shared.errors import Transient
from shared.settings import Settings
from tests.kit import missing_tool
from tests.worker.kit import stream

pytestmark = pytest.mark.bench

SIZE = "64x48"


@pytest.fixture
def plant(settings: Settings, tiny_models: Path) -> Settings:
    """A model, and batches so small that a few images fill several."""
    return bench_settings(settings).model_copy(
        update={"model_store": str(tiny_models), "model": "tiny", "max_batch": 4}
    )


def needed(missing: str | None, what: str) -> None:
    if missing:
        missing_tool(f"{what} is not installed: {missing}")


@pytest.mark.parametrize("null", [True, False])
def test_celery_batches_answers_every_image(plant: Settings, client: redis.Redis, null: bool) -> None:
    needed(celery_missing(), "celery-batches")
    images = fill_queue(plant, count=21, size=SIZE)  # the last batch does not fill
    assert celery_batches_rate(plant, images, null=null) > 0
    assert len(client.keys("celery-task-meta-*")) == 21
    assert not client.keys(keys.image("*"))
    assert client.llen("celery") == 0


def test_mosec_answers_every_image(plant: Settings) -> None:
    needed(mosec_missing(), "mosec")
    images_per_s, client_core_share = mosec_rate(plant, fill_queue(plant, count=50, size=SIZE))
    assert images_per_s > 0
    assert 0 < client_core_share < 2


@pytest.mark.parametrize("rate", [mosec_rate, celery_batches_rate])
def test_a_peer_that_can_not_start_says_why(plant: Settings, rate: Callable[..., object]) -> None:
    needed(celery_missing() or mosec_missing(), "a peer")
    images = fill_queue(plant, count=8, size=SIZE)
    with pytest.raises(Transient, match="no current version"):
        rate(plant.model_copy(update={"model": "nobody"}), images)


def test_rq_worker_answers_every_image(plant: Settings, client: redis.Redis) -> None:
    fill_queue(plant, count=2, size=SIZE)
    assert rq_worker_rate(plant, count=2) > 0
    assert {result.model.name for result in stream(client, LINE) if result.model} == {"tiny"}
    fill_queue(plant, count=10, size=SIZE)
    assert rq_worker_null_rate(plant, count=10) > 0
    assert {result.model.name for result in stream(client, LINE) if result.model} == {"null"}


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the digest of what it got; `/broken` with an error."""

    protocol_version = "HTTP/1.1"
    seen: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(body)
        answer = hashlib.sha256(body).hexdigest().encode()
        self.send_response(503 if self.path == "/broken" else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def echo() -> Iterator[http.server.ThreadingHTTPServer]:
    Echo.seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_load_sends_every_image_once(echo: http.server.ThreadingHTTPServer) -> None:
    images = [bytes([number]) * 100_000 for number in range(20)]
    answers = post_all(echo.server_port, "/", images, connections=3)
    assert sorted(Echo.seen) == images
    assert len(answers.finished_at) == 20
    assert answers.finished_at == sorted(answers.finished_at)
    assert answers.client_core_share > 0


def test_an_answer_that_is_an_error_voids_the_run(echo: http.server.ThreadingHTTPServer) -> None:
    with pytest.raises(Transient, match="503"):
        post_all(echo.server_port, "/broken", [b"image"], connections=1)


# records ────────────────────────────────────────────────────────────────────────────────────────────


def unsaid(text: str) -> None:
    """Ignores the text."""


def same_rates(contenders: list[Contender], **_: object) -> Rates:
    """In place of `interleaved`: no contender runs."""
    return {contender.key: [10.0, 20.0, 30.0] for contender in contenders}


@pytest.fixture
def no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (line, queue):
        monkeypatch.setattr(module, "interleaved", same_rates)
    monkeypatch.setattr(QueueFiller, "image_bytes_mean", 30_000)


def contenders_of(record: Record, unit: str) -> set[str]:
    return {key.removesuffix(f"_{unit}") for key in record if key.endswith(unit)}


USUAL_LINE = {"no_queue", "sortline", "rq_simple_worker"}
USUAL_QUEUE = {"sortline", "sortline_two_workers", "bare_scripts", "rq_simple_worker"}


@pytest.mark.usefixtures("no_runs")
def test_peers_are_measured_only_when_asked_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "tensorflow_missing", lambda: None)
    of_line = line.bench_line(settings, rounds=1, jobs=100, size=SIZE, on_progress=unsaid)
    assert contenders_of(of_line, "images_per_s") == {*USUAL_LINE, "rq_simple_worker_tensorflow"}
    of_queue = queue.bench_queue(settings, rounds=1, jobs=100, on_progress=unsaid)
    assert contenders_of(of_queue, "jobs_per_s") == USUAL_QUEUE
    assert "left_out" not in of_line | of_queue


@pytest.mark.usefixtures("no_runs")
def test_a_peer_that_is_not_installed_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in ((line, ("celery", "mosec")), (queue, ("celery",))):
        for name in names:
            monkeypatch.setattr(module, f"{name}_missing", lambda: PEERS_HINT)
    monkeypatch.setattr(line, "tensorflow_missing", lambda: TENSORFLOW_HINT)
    of_line = line.bench_line(settings, rounds=1, jobs=100, size=SIZE, on_progress=unsaid, peers=True)
    assert contenders_of(of_line, "images_per_s") == {*USUAL_LINE, "rq_worker"}
    assert of_line["left_out"] == {
        "rq_simple_worker_tensorflow": TENSORFLOW_HINT,
        "celery_batches": PEERS_HINT,
        "celery_batches_tensorflow": PEERS_HINT,
        "mosec": PEERS_HINT,
    }
    of_queue = queue.bench_queue(settings, rounds=1, jobs=100, on_progress=unsaid, peers=True)
    assert contenders_of(of_queue, "jobs_per_s") == {*USUAL_QUEUE, "rq_worker"}
    assert of_queue["left_out"] == {"celery_batches": PEERS_HINT}


def test_records_hold_every_contender_and_the_ratio_to_it(plant: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """All contenders run, except those with TensorFlow, which loads slowly; tests/e2e runs them by `sortline bench`."""
    needed(celery_missing() or mosec_missing(), "a peer")
    monkeypatch.setattr(line, "tensorflow_missing", lambda: TENSORFLOW_HINT)
    record = line.bench_line(plant, rounds=1, jobs=64, size=SIZE, on_progress=unsaid, peers=True)
    others = {"no_queue", "rq_simple_worker", "celery_batches", "mosec", "rq_worker"}
    assert contenders_of(record, "images_per_s") == {"sortline", *others}
    ours = record["sortline_images_per_s"]["median"]
    for other in others:
        theirs = record[f"{other}_images_per_s"]["median"]
        # Rates are rounded to a tenth, which is much of what `rq worker` does in a second.
        assert record[f"ratio_to_{other}"] == pytest.approx(ours / theirs, rel=0.01 + 0.06 / theirs)
    assert record["image_bytes_mean"] > 500
    assert record["http_client_core_share"] > 0
