"""What a plant keeps when its server loses power or is killed, by `appendfsync`: what docs/durability.md says."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from rq.job import JobStatus

from producer.results import wait_for
from producer.streams.reader import ResultReader
from producer.submit import LineProducer
from shared import keys
from shared.errors import RedisUnavailable, ResultGone
from shared.schemas import SortResult
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import Gate, ToneEngine, frame
from torture.server.server import TortureServer
from worker.state.inflight import Inflight
from worker.state.jobs import Disposition, FinishedJob

pytestmark = pytest.mark.e2e

LINE = "l1"


def plant(settings: Settings, server: TortureServer) -> Settings:
    """Settings of the server, with leases that don't run out by themselves."""
    return settings.model_copy(update={"redis_url": server.url, "max_batch": 4, "lease_s": 600})


def queued(client: redis.Redis) -> set[str]:
    return {job_id.decode() for job_id in client.lrange(keys.rq_queue("live"), 0, -1)}


class Producer:
    """Submits one image after the other until the server is away, and records what was acknowledged."""

    def __init__(self, settings: Settings) -> None:
        self._producer = LineProducer(settings)
        self.tried: list[str] = []
        self.acknowledged: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        with contextlib.closing(self._producer), contextlib.suppress(RedisUnavailable):
            while True:
                job = self._producer.prepare(frame(line=LINE))
                self.tried.append(job.job_id)
                self._producer.send([job])
                self.acknowledged.append(job.job_id)
        self.ended.set()


@contextlib.contextmanager
def following(settings: Settings) -> Iterator[list[SortResult]]:
    """The results that somebody saw who follows the line, also those that the server forgets later."""
    seen: list[SortResult] = []
    stop = threading.Event()
    results = ResultReader(settings, line=LINE, drop_duplicates=False)
    results.last(0)

    def follow() -> None:
        for result in results.follow(stop):
            seen.append(result)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(kit.PATIENCE_S)
        results.close()


@contextlib.contextmanager
def working(settings: Settings, engine: ToneEngine) -> Iterator[Inflight]:
    """A worker's pipeline for the block, drained at its end; gives the jobs that it holds."""
    components = kit.pipeline_components(settings, engine)
    run = kit.pipeline(settings, components)
    run.start()
    try:
        yield components.inflight
    finally:
        run.drain()
        kit.finish(run)


# always ─────────────────────────────────────────────────────────────────────────────────────────────


def test_with_always_no_acknowledgement_comes_before_its_fsync(settings: Settings, tmp_path: Path) -> None:
    with TortureServer(tmp_path, watches_fsyncs=True, appendfsync="always") as server:
        producer = Producer(plant(settings, server))
        with server.fsyncs_held():
            threading.Thread(target=producer.run).start()
            kit.wait_until(server.unsynced_bytes, "the first image is written")
            server.power_cut()
        assert producer.ended.wait(kit.PATIENCE_S)
        assert producer.acknowledged == []
        server.start()
        with server.client() as client:
            assert client.keys() == []


def test_with_always_power_cuts_lose_and_double_nothing(settings: Settings, tmp_path: Path) -> None:
    with TortureServer(tmp_path, watches_fsyncs=True, appendfsync="always") as server:
        theirs = plant(settings, server)
        producers = [Producer(theirs) for _ in range(3)]
        with following(theirs) as seen, working(theirs, ToneEngine()), server.client() as client:
            for producer in producers:
                threading.Thread(target=producer.run).start()
                kit.wait_until(lambda known=producer: len(known.acknowledged) >= 20, "images are acknowledged")
                server.power_cut()
                assert producer.ended.wait(kit.PATIENCE_S)
                server.start()
            acknowledged = {job_id for producer in producers for job_id in producer.acknowledged}
            kit.wait_until(lambda: acknowledged <= set(kit.outcomes(client)), "all that was acknowledged is sorted")
            kit.wait_until(lambda: acknowledged <= {result.job_id for result in seen}, "the follower saw all")
            results = set(kit.outcomes(client))  # fails if a job has two results
        assert results <= {job_id for producer in producers for job_id in producer.tried}
        assert max(Counter(result.job_id for result in seen).values()) == 1


def test_a_submission_of_which_the_file_holds_only_a_part_is_dropped_as_a_whole(
    settings: Settings, tmp_path: Path
) -> None:
    """Its image would stay for hours without a job that needs it."""
    with TortureServer(tmp_path, watches_fsyncs=True) as server, server.client() as client:
        theirs = plant(settings, server)
        kept = kit.submit(theirs, frame())
        kit.submit(theirs, frame())
        server.kill()
        (file,) = (tmp_path / "data").glob("*/*.incr.aof")
        os.truncate(file, file.stat().st_size - 1)
        server.start()
        assert queued(client) == set(kept)
        assert set(client.keys("sortline:image:*")) == {keys.image(kept[0]).encode()}


# everysec ───────────────────────────────────────────────────────────────────────────────────────────


def test_with_everysec_a_power_cut_loses_what_was_acknowledged_since_the_last_fsync(
    settings: Settings, tmp_path: Path
) -> None:
    with TortureServer(tmp_path, watches_fsyncs=True, appendfsync="everysec") as server, server.client() as client:
        theirs = plant(settings, server)
        kept = kit.submit(theirs, *[frame() for _ in range(5)])
        kit.wait_until(server.has_synced_all, "the file is synced")
        with server.fsyncs_held():
            lost = kit.submit(theirs, frame())
            server.power_cut()
        server.start()
        assert queued(client) == set(kept)
        with pytest.raises(ResultGone, match="does not know it"):
            wait_for(lost, kit.PATIENCE_S, theirs)
        kit.run_burst(theirs)
        assert set(kit.outcomes(client)) == set(kept)


def test_with_everysec_a_claim_that_was_lost_is_made_again(settings: Settings, tmp_path: Path) -> None:
    """The first worker's lease is gone, so that what it still says is refused."""
    with TortureServer(tmp_path, watches_fsyncs=True, appendfsync="everysec") as server, server.client() as client:
        theirs = plant(settings, server)
        (job_id,) = kit.submit(theirs, frame(line=LINE))
        kit.wait_until(server.has_synced_all, "the file is synced")
        with server.fsyncs_held():
            (job,) = kit.claimer(theirs).claim(1).jobs
            server.power_cut()
        server.start()
        assert queued(client) == {job_id}
        assert kit.finisher(theirs).finish([FinishedJob(job, Disposition.RETRY, None)]) == [False]
        kit.run_burst(theirs, worker="w2")
        assert kit.outcomes(client) == {job_id: "sorted"}


def test_with_everysec_a_result_that_was_read_and_lost_is_made_again(settings: Settings, tmp_path: Path) -> None:
    """The result and the end of the job are written in one step, so that both are lost: a reader sees two results."""
    gate = Gate()
    with TortureServer(tmp_path, watches_fsyncs=True, appendfsync="everysec") as server, server.client() as client:
        theirs = plant(settings, server)
        (job_id,) = kit.submit(theirs, frame(line=LINE))
        with following(theirs) as seen:
            with working(theirs, ToneEngine(gate)) as inflight:
                assert gate.entered.wait(kit.PATIENCE_S)
                kit.wait_until(server.has_synced_all, "the claim is synced")
                with server.fsyncs_held():
                    gate.opened.set()
                    kit.wait_until(lambda: seen, "the result is read")
                    kit.wait_until(lambda: len(inflight) == 0, "the worker knows that the job has ended")
                    server.power_cut()
                server.start()
            assert kit.stream(client) == []
            assert kit.fetch(client, job_id).get_status() is JobStatus.STARTED
            end_leases(client)
            assert kit.keeper(theirs, Inflight(), worker="w2").reap() == (1, [])
            kit.run_burst(theirs, worker="w2")
            kit.wait_until(lambda: len(seen) == 2, "the second result is read")
            assert kit.outcomes(client) == {job_id: "sorted"}
            assert client.zcard(keys.rq_wip("live")) == 0
    assert [(result.job_id, result.attempt) for result in seen] == [(job_id, 1), (job_id, 2)]


def end_leases(client: redis.Redis) -> None:
    """As if `lease_s` had passed."""
    for member in client.zrange(keys.rq_wip("live"), 0, -1):
        client.zadd(keys.rq_wip("live"), {member: time.time() - 1})


def test_with_everysec_a_mere_kill_loses_what_was_acknowledged_while_an_fsync_hangs(
    settings: Settings, tmp_path: Path
) -> None:
    """Valkey then keeps what it has acknowledged to itself, for up to two seconds, instead of writing it."""
    with TortureServer(tmp_path, watches_fsyncs=True, appendfsync="everysec") as server, server.client() as client:
        theirs = plant(settings, server)

        def is_lost() -> bool:
            with server.fsyncs_held():
                kit.submit(theirs, frame())
                kit.wait_until(lambda: client.info("persistence")["aof_pending_bio_fsync"], "an fsync hangs")
                (job_id,) = kit.submit(theirs, frame())
                server.kill()
            server.start()
            return job_id not in queued(client)

        # A machine that stands still for two seconds between the submission and the kill lets it be written.
        kit.wait_until(is_lost, "an acknowledged image is lost")
