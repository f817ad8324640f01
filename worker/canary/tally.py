"""What a canary has shown so far, on all workers together. In: `Comparison`s. Out: `Totals`, and the verdict.

The counts and the verdict are in Redis, so that each worker of the server knows them, also one that may not write the
model store. Called by the recorder and the follower, from threads of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, cast

import redis
from pydantic import BaseModel, ConfigDict

from model_store.bundle.policy import Decision
from model_store.registry.canary import Canary
from shared import keys
from shared.errors import CommandRefused
from shared.schemas import Label, ModelRef
from shared.server.error_translation import explain, translate
from worker.state.canary_totals import Totals

log = logging.getLogger("sortline.canary")

# Counts and verdict outlive the last look of the last worker by this: a canary that was stopped must not come back
# because every worker was off for a while and the store could not be written.
KEEP_S = 30 * 86_400


class Answer(BaseModel):
    """What one model said of an image, deadline or not."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # as all messages

    model: ModelRef
    labels: tuple[Label, ...]
    lane: str

    @classmethod
    def of(cls, model: ModelRef, decision: Decision) -> Answer:
        """The answer as it is recorded."""
        labels = tuple(Label(label=name, probability=round(p, 6)) for name, p in decision.labels)
        return cls(model=model, labels=labels, lane=decision.lane)


class Comparison(BaseModel):
    """One image that two models saw: an entry of `sortline:shadow:<line>`, as JSON in the field `comparison`."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # as all messages

    job_id: str
    line: str
    acting: Answer  # the one that the bottle went by
    compared: Answer
    agree: bool


def count_disagreements(comparisons: Sequence[Comparison]) -> int:
    """How many of the images the two models would treat differently."""
    return sum(not comparison.agree for comparison in comparisons)


def agree(acting: Decision, compared: Decision) -> bool:
    """Whether two models would do the same with a bottle: the same set of labels, and the same lane."""
    return acting.lane == compared.lane and {name for name, _ in acting.labels} == {name for name, _ in compared.labels}


def is_outvoted(canary: Canary, totals: Totals) -> bool:
    """Whether the canary has crossed its bound.

    Before `min_images`: when no answer to the images still missing could keep it below.
    """
    return totals.disagreed > canary.max_disagreement * max(totals.compared, canary.min_images)


class CanaryBook:
    """The counts of one model's canaries on one Redis server."""

    def __init__(self, client: redis.Redis, *, name: str, maxlen: int) -> None:
        """`name` of the model; `maxlen` entries are kept per line's stream, about."""
        self._client = client
        self._name = name
        self._maxlen = maxlen
        self._is_unwritten_said = False

    def add(self, canary: Canary, comparisons: Sequence[Comparison]) -> Totals:
        """Record and count comparisons; the totals with them.

        A line's stream that can't be written costs that line's entries, and is logged once: the counts are not in it.

        Raises:
            redis.exceptions.RedisError: the server can't be reached; they may be counted all the same.
        """
        key = self._key(canary)
        streams = [keys.shadow(comparison.line) for comparison in comparisons]
        lines_streams = sorted(set(streams))
        with self._client.pipeline() as pipeline:
            for stream, comparison in zip(streams, comparisons, strict=True):
                entry = {"comparison": comparison.model_dump_json()}
                pipeline.xadd(stream, cast(Any, entry), maxlen=self._maxlen)
            for stream in lines_streams:
                pipeline.expire(stream, keys.STREAM_TTL_S)
            pipeline.hincrby(key, "compared", len(comparisons))
            pipeline.hincrby(key, "disagreed", count_disagreements(comparisons))
            return self._totals(pipeline, key, streams=[*streams, *lines_streams])

    def read(self, canary: Canary) -> Totals:
        """The totals by now.

        Raises:
            redis.exceptions.RedisError: the server can't be reached.
        """
        with self._client.pipeline() as pipeline:
            return self._totals(pipeline, self._key(canary))

    def stop(self, canary: Canary, reason: str) -> bool:
        """Write the verdict, which every worker obeys; False when another has written one.

        Raises:
            redis.exceptions.RedisError: the server can't be reached.
        """
        with self._client.pipeline() as pipeline:
            pipeline.hsetnx(self._key(canary), "stopped", reason)
            pipeline.expire(self._key(canary), KEEP_S)
            return bool(pipeline.execute()[0])

    def _totals(self, pipeline: Any, key: str, *, streams: Sequence[str] = ()) -> Totals:
        """`streams`: those that the first commands of the pipeline concern, one each."""
        pipeline.expire(key, KEEP_S)
        pipeline.hmget(key, "compared", "disagreed", "stopped")
        answers = pipeline.execute(raise_on_error=False)
        for answer, stream in zip_longest(answers, streams):
            if isinstance(answer, redis.exceptions.RedisError):
                if stream is None or not isinstance(translate(answer), CommandRefused):
                    raise answer
                self._say_unwritten(stream, answer)
        compared, disagreed, stopped = answers[-1]
        return Totals(int(compared or 0), int(disagreed or 0), stopped.decode() if stopped else None)

    def _say_unwritten(self, stream: str, error: redis.exceptions.RedisError) -> None:
        if not self._is_unwritten_said:
            log.warning("%s can't be written; its comparisons are only counted: %s", stream, explain(error))
        self._is_unwritten_said = True

    def _key(self, canary: Canary) -> str:
        return keys.canary(self._name, canary.version, canary.started_at)
