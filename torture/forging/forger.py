"""The forger: writes to the server as anybody with access can, and records what must come of it."""

from __future__ import annotations

import itertools
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import redis

from producer.frames import PreparedJob
from producer.submit import LineProducer
from shared import keys
from shared.jobs import MAX_ATTEMPTS_FIELD, MAX_HASH_BYTES, MAX_ID_BYTES
from shared.rq_time import format_rq_time
from shared.schemas import Outcome
from torture.forging.payloads.payload import MISSING, Payload, Traps, packed
from torture.history.ledger import Submission, submission_of
from torture.plant.images import ImageMaker
from torture.plant.plant import Plant
from torture.plant.sender import Sender
from torture.server.waiting import wait_until

STREAM_END = "18446744073709551615-18446744073709551615"
IMAGE_TTL_S = 600
ID_LENGTH = 32

# Deletes a key, and writes it by the command in ARGV[2] and the following. If ARGV[1] names a lease, it does this only
# while the lease is held and the job is started: a key that is written for a job that has ended would stay for ever. (A
# lease may outlive its job, after the forgery `leases`.)
_WRITE = """
if ARGV[1] ~= '' and not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
if ARGV[1] ~= '' and redis.call('HGET', KEYS[3], 'status') ~= 'started' then return 0 end
redis.call('DEL', KEYS[1])
redis.call(unpack(ARGV, 2))
return 1
"""
# Puts a text under a key, and keeps its content under another key.
_SWAP = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('RENAME', KEYS[1], KEYS[2]) end
redis.call('SET', KEYS[1], 'forged')
"""
# Puts the content back.
_SWAP_BACK = """
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[1]) end
"""


class HeldJob(NamedTuple):
    """A plain job that a worker holds."""

    queue: str
    job_id: str
    execution_id: str

    @property
    def lease(self) -> str:
        """The member of RQ's registry of leases."""
        return f"{self.job_id}:{self.execution_id}"


class Forger:
    """Forges for one campaign. `name` is the current forgery."""

    def __init__(self, plant: Plant, *, lines: Sequence[str]) -> None:
        self.plant = plant
        self.client: Any = plant.client
        self.random = plant.random
        self.name = ""
        self.refusals = 0  # how many jobs workers must count as refused
        self.refused: list[str] = []  # those of them that RQ must show as failed
        self.mates: list[str] = []  # good jobs that were enqueued right before and right behind forged ones
        self.traps = Traps(str(plant.executions.absolute()))
        self.left_alone: dict[str, bytes] = {}  # keys that are not ours and must not change, and their DUMP
        self.to_repair: dict[str, str] = {}  # keys that workers must delete, or write anew with this type
        self._lines = lines
        self._sender = Sender(plant, lines=lines)
        self._producer = LineProducer(plant.settings)
        self._images = ImageMaker(plant.random.getrandbits(32))
        self._odd_ids: set[bytes] = set()
        self._touched: set[str] = set()  # forged jobs, and plain ones that were harmed once
        self._numbers = itertools.count()

    def close(self) -> None:
        """Close the connections."""
        self._producer.close()

    # what is there ──────────────────────────────────────────────────────────────────────────────────

    def any_queue(self) -> str:
        """One of the queues."""
        return self.random.choice(self.plant.settings.queue_names)

    def any_stream(self) -> str:
        """A stream that plain images go to. Waits until a worker has repaired it after an earlier forgery."""
        key = keys.results(self.random.choice(self._lines))
        self.wait_for_type(key, b"stream")
        return key

    def any_worker(self) -> str:
        """The name of one of the workers."""
        names = [worker.name for worker in self.plant.ready if worker.name]
        return self.random.choice(names)

    def all_held(self) -> list[HeldJob]:
        """The plain jobs that workers hold now. Each is returned only once, as a job may fail after two faults."""
        found: list[HeldJob] = []

        def poll() -> bool:
            found.extend(self._held_now())
            return bool(found)

        wait_until(poll, "a worker holds a plain job")
        self._touched.update(held.job_id for held in found)
        return found

    def held(self) -> HeldJob:
        """A plain job that a worker holds now. No job is returned twice."""
        return self.random.choice(self.all_held())

    def _held_now(self) -> Iterator[HeldJob]:
        for queue in self.plant.settings.queue_names:
            for member in self.client.zrange(keys.rq_wip(queue), 0, -1):
                job_id, _, execution_id = member.decode(errors="surrogateescape").rpartition(":")
                if len(job_id) == ID_LENGTH and job_id not in self._touched:
                    yield HeldJob(queue, job_id, execution_id)

    def wait_for_type(self, key: str, *wanted: bytes) -> None:
        """Wait until a worker has written the key anew, as one of these types."""
        wait_until(lambda: self.client.type(key) in wanted, f"{key} is a {wanted[0].decode()} again")

    # keys ───────────────────────────────────────────────────────────────────────────────────────────

    def write_wrong_type(self, key: str, *, right: str, held: HeldJob | None = None) -> bool:
        """Put another type than `right` under the key, or a stream with no ids left.

        If `held` is given, do it only while a worker holds that job. Returns whether it was done.
        """
        commands: dict[str, list[Any]] = {
            "string": ["SET", key, b"\xff forged"],
            "list": ["RPUSH", key, "forged"],
            "set": ["SADD", key, b"\xff forged"],
            "zset": ["ZADD", key, 1, "forged"],
            "hash": ["HSET", key, "forged", b"\xff"],
            "stream": ["XADD", key, STREAM_END, "forged", "1"],
        }
        wrong = [kind for kind in commands if kind != right or kind == "stream"]
        lease, wip = (held.lease, keys.rq_wip(held.queue)) if held else ("", "")
        job_key = keys.rq_job(held.job_id if held else "")
        if not self.client.eval(_WRITE, 3, key, wip, job_key, lease, *commands[self.random.choice(wrong)]):
            return False
        self.to_repair[key] = right
        return True

    def replace(self, key: str, command: str, *arguments: str | bytes | int) -> None:
        """Delete what the key holds, and write to it by this command."""
        self.client.eval(_WRITE, 3, key, "", "", "", command, key, *arguments)

    def add_to_hash(self, key: str, fields: Mapping[str | bytes, str | bytes] | Mapping[str, str | bytes]) -> None:
        """Write fields to a hash; first delete what the key holds if that is no hash."""
        try:
            self.client.hset(key, mapping=fields)
        except redis.exceptions.ResponseError:
            self.client.delete(key)
            self.client.hset(key, mapping=fields)

    def overwrite_held(self, pattern: str, *, right: str) -> None:
        """Put another type under a key of a plain job that a worker holds."""
        done = False
        while not done:
            held = self.held()
            key = pattern.format(job=held.job_id, execution=held.execution_id)
            done = self.write_wrong_type(key, right=right, held=held)

    def swap(self, key: str) -> str:
        """Put a text under the key. Returns the key to which its content was moved."""
        kept = f"forged:kept:{next(self._numbers)}"
        self.client.eval(_SWAP, 2, key, kept)
        return kept

    def swap_back(self, key: str, kept: str) -> None:
        """Put the content back, as a person would."""
        self.client.eval(_SWAP_BACK, 2, key, kept)

    def expect_moved(self, key: str) -> None:
        """Expect that a worker moves what the key holds to `sortline:broken:<key>`, where it stays for a day."""
        self.plant.expected_keys.add(keys.broken(key))

    # jobs ───────────────────────────────────────────────────────────────────────────────────────────

    def fresh_id(self) -> str:
        """An id of the usual form."""
        return f"{self.random.getrandbits(128):032x}"

    def enqueue(
        self,
        *,
        outcomes: Sequence[Outcome],
        queue: str | None = None,
        image: bytes | Sequence[bytes] | None = b"",
        call: Mapping[str, object] | None = None,
        data: bytes | None = None,
        fields: Mapping[str, str | bytes] | None = None,
    ) -> str:
        """Enqueue a job between two good ones. It is valid except for what the arguments replace. Returns its id.

        Args:
            outcomes: the outcomes that it may have; none if it must fail unread and be counted as refused.
            image: the file; b"" for a good one, None for no key, a sequence for a list under its key.
            call: fields of its ImageJob to replace, or to leave out (MISSING).
            data: replaces RQ's `data`, which holds the ImageJob.
            fields: fields of its hash to replace.
        """
        queue = queue or self.any_queue()
        frame = self._sender.frame(self._images.make(), queue=queue)
        prepared = self._producer.prepare(frame)
        submission = submission_of(frame, prepared.job_id, kind=f"forged: {self.name}")
        if call:
            data = _with_call(prepared.payload, call)
            if outcomes:
                submission = _with_changes(submission, call)
        self._note(submission, outcomes)
        hash_fields = self._hash(queue, prepared.payload if data is None else data) | dict(fields or {})
        if not outcomes and sum(map(len, hash_fields.values())) > MAX_HASH_BYTES:  # removed, as if its id were too long
            self.refused.remove(prepared.job_id)
        file = prepared.image if image == b"" else image
        self._enqueue(prepared.job_id, queue, hash_fields, file)
        return prepared.job_id

    def enqueue_payload(self, payload: Payload) -> None:
        """Enqueue a job with this payload, between two good ones."""
        self.enqueue(
            outcomes=payload.outcomes,
            data=payload.data and payload.data(self.traps),
            call=payload.call and payload.call(),
            fields=payload.fields,
            image=payload.image() if payload.image else b"",
        )

    def enqueue_odd_id(self, job_id: bytes) -> None:
        """Enqueue an unreadable job with this id, or, if there was one already, with a new ending."""
        self.enqueue_junk(job_id + self.fresh_id().encode() if job_id in self._odd_ids else job_id)
        self._odd_ids.add(job_id)

    def enqueue_junk(self, job_id: bytes) -> None:
        """Enqueue an unreadable job with this id, between two good ones."""
        queue = self.any_queue()
        text = job_id.decode(errors="surrogateescape")
        self._note(submission_of(self._sender.frame(b"", queue=queue), text, kind=f"forged: {self.name}"), ())
        if len(job_id) > MAX_ID_BYTES:  # workers remove such a job, and RQ does not show it
            self.refused.remove(text)
        self._enqueue(job_id, queue, self._hash(queue, b"junk"), None)

    def enqueue_ended(self, status: str) -> None:
        """Enqueue a job that claims to have ended with this status: workers skip it, and leave its hash alone."""
        queue, job_id = self.any_queue(), self.fresh_id()
        self._sender.ledger.attempt([submission_of(self._sender.frame(b"", queue=queue), job_id, kind="ended")])
        self._sender.ledger.refused([job_id], self.name)
        self._touched.add(job_id)
        self._enqueue(job_id, queue, self._hash(queue, b"junk") | {"status": status}, None)
        self.client.expire(keys.rq_job(job_id), IMAGE_TTL_S)

    def enqueue_non_job(self, job_id: str) -> None:
        """Enqueue an id whose key does not hold a hash: workers must refuse and count it, and leave the key alone."""
        key = keys.rq_job(job_id)
        self.write_wrong_type(key, right="hash")
        del self.to_repair[key]
        self.left_alone[key] = self.client.dump(key)
        self.plant.expected_keys.add(key)
        self.refusals += 1
        self.push(self.any_queue(), job_id)

    def push(self, queue: str, *job_ids: str | bytes) -> None:
        """Put ids into a queue, at a random end."""
        self.random.choice((self.client.lpush, self.client.rpush))(keys.rq_queue(queue), *job_ids)

    def _note(self, submission: Any, outcomes: Sequence[Outcome]) -> None:
        self._touched.add(submission.job_id)
        self._sender.ledger.attempt([submission])
        if outcomes:
            self.plant.allowed_outcomes[submission.kind] = tuple(outcomes)
            self._sender.ledger.accepted([submission.job_id], sent_at=time.time())
        else:
            self._sender.ledger.refused([submission.job_id], self.name)
            self.refused.append(submission.job_id)
            self.refusals += 1

    def _hash(self, queue: str, data: bytes) -> dict[str, str | bytes]:
        now, settings = format_rq_time(time.time()), self.plant.settings
        return {
            "created_at": now,
            "enqueued_at": now,
            "status": "queued",
            "origin": queue,
            "data": data,
            "timeout": "180",
            "result_ttl": str(settings.result_ttl_s),
            "failure_ttl": str(settings.failure_ttl_s),
            "retries_left": str(settings.max_attempts - 1),
            MAX_ATTEMPTS_FIELD: str(settings.max_attempts),
        }

    def _enqueue(
        self,
        job_id: str | bytes,
        queue: str,
        fields: Mapping[str, str | bytes],
        image: bytes | Sequence[bytes] | None,
    ) -> None:
        """Enqueue in one step, so that a worker mostly claims the job together with the good ones beside it."""
        before, behind = self._good_job(queue), self._good_job(queue)
        sent_at = time.time()
        with self.client.pipeline() as pipeline:
            _add(pipeline, before.job_id, queue, self._hash(queue, before.payload), before.image)
            _add(pipeline, job_id, queue, fields, image)
            _add(pipeline, behind.job_id, queue, self._hash(queue, behind.payload), behind.image)
            pipeline.execute()
        self.mates += [before.job_id, behind.job_id]
        self._sender.ledger.accepted([before.job_id, behind.job_id], sent_at=sent_at)

    def _good_job(self, queue: str) -> PreparedJob:
        """A job that must be sorted, noted in the ledger as one that is about to be sent."""
        frame = self._sender.frame(self._images.make(), queue=queue)
        job = self._producer.prepare(frame)
        self._sender.ledger.attempt([submission_of(frame, job.job_id, kind="plain")])
        return job


Forgery = Callable[[Forger], object]


def _add(
    pipeline: Any,
    job_id: str | bytes,
    queue: str,
    fields: Mapping[str, str | bytes],
    image: bytes | Sequence[bytes] | None,
) -> None:
    raw_id = job_id if isinstance(job_id, bytes) else job_id.encode()
    image_key = keys.image("").encode() + raw_id
    if isinstance(image, bytes):
        pipeline.set(image_key, image)
    elif image is not None:
        pipeline.rpush(image_key, *image)
    pipeline.expire(image_key, IMAGE_TTL_S)
    pipeline.hset(keys.rq_job("").encode() + raw_id, mapping=fields)
    pipeline.rpush(keys.rq_queue(queue), raw_id)


def _with_changes(submission: Submission, call: Mapping[str, Any]) -> Submission:
    """What the job's result must repeat, or be checked by."""
    return submission._replace(
        frame_id=call.get("frame_id", submission.frame_id),
        encoder_count=call.get("encoder_count", submission.encoder_count),
        captured_at=call.get("captured_at", submission.captured_at),
        deadline_at=call.get("deadline_at", submission.deadline_at),
    )


def _with_call(payload: bytes, changes: Mapping[str, object]) -> bytes:
    """The data of a job with some fields of its ImageJob changed, or left out."""
    function, instance, (argument,), keywords = json.loads(zlib.decompress(payload))
    changed = {name: value for name, value in (argument | changes).items() if value is not MISSING}
    return packed([function, instance, [changed], keywords])
