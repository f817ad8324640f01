"""The tally of a canary over all workers. In: `Comparison`s. Out: `CanaryTotals`, and whether it must be stopped.

Counts and verdict are in Redis, so that every worker of the server knows them, even one that may not write the model
store. The recorder and the follower call it, each from its own thread.
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
from model_store.registry.canary_totals import FIELDS, KEEP_S, CanaryTotals, read_totals
from shared import keys
from shared.errors import CommandRefused
from shared.schemas import Label, ModelRef
from shared.server.error_translation import explain, translate

log = logging.getLogger("sortline.canary")


class ModelAnswer(BaseModel):
    """What one model answered for an image, whatever the image's deadline."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # as all messages

    model: ModelRef
    labels: tuple[Label, ...]
    lane: str

    @classmethod
    def of(cls, model: ModelRef, decision: Decision) -> ModelAnswer:
        """The answer as it is recorded."""
        labels = tuple(Label(label=name, probability=round(p, 6)) for name, p in decision.labels)
        return cls(model=model, labels=labels, lane=decision.lane)


class Comparison(BaseModel):
    """One image that two models saw: an entry of `sortline:shadow:<line>`, as JSON in the field `comparison`."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # as all messages

    job_id: str
    line: str
    acting: ModelAnswer  # the answer that sorted the bottle
    compared: ModelAnswer
    agree: bool


def count_disagreements(comparisons: Sequence[Comparison]) -> int:
    """How many of the images the two models would treat differently."""
    return sum(not comparison.agree for comparison in comparisons)


def agree(acting: Decision, compared: Decision) -> bool:
    """Whether two models would treat a bottle the same: the same set of labels, and the same lane."""
    return acting.lane == compared.lane and {name for name, _ in acting.labels} == {name for name, _ in compared.labels}


def exceeds_disagreement(canary: Canary, totals: CanaryTotals) -> bool:
    """Whether the canary disagrees more often than its bound allows.

    Before `min_images` are compared: whether it would do so even if it agreed on all images that are still missing.
    """
    return totals.disagreed > canary.max_disagreement * max(totals.compared, canary.min_images)


class CanaryTally:
    """The counts of one model's canaries on one Redis server."""

    def __init__(self, client: redis.Redis, *, name: str, maxlen: int) -> None:
        """`name`: of the model. `maxlen`: about how many entries the stream of a line keeps."""
        self._client = client
        self._name = name
        self._maxlen = maxlen
        self._is_failure_logged = False

    def add(self, canary: Canary, comparisons: Sequence[Comparison]) -> CanaryTotals:
        """Record and count comparisons. Returns the totals including them.

        If the stream of a line can't be written, its entries are missing, which is logged once. They are counted
        nevertheless.

        Raises:
            redis.exceptions.RedisError: the server can't be reached; the comparisons may have been counted.
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

    def read(self, canary: Canary) -> CanaryTotals:
        """The current totals, which are kept for another KEEP_S.

        Raises:
            redis.exceptions.RedisError: the server can't be reached.
        """
        self._client.expire(self._key(canary), KEEP_S)
        return read_totals(self._client, self._name, canary)

    def stop(self, canary: Canary, reason: str) -> bool:
        """Write the verdict, which all workers obey. Returns False if another worker has written one.

        Raises:
            redis.exceptions.RedisError: the server can't be reached.
        """
        with self._client.pipeline() as pipeline:
            pipeline.hsetnx(self._key(canary), "stopped", reason)
            pipeline.expire(self._key(canary), KEEP_S)
            return bool(pipeline.execute()[0])

    def _totals(self, pipeline: Any, key: str, *, streams: Sequence[str]) -> CanaryTotals:
        """`streams`: the stream that each of the first commands in the pipeline writes to."""
        pipeline.expire(key, KEEP_S)
        pipeline.hmget(key, *FIELDS)
        answers = pipeline.execute(raise_on_error=False)
        for answer, stream in zip_longest(answers, streams):
            if isinstance(answer, redis.exceptions.RedisError):
                if stream is None or not isinstance(translate(answer), CommandRefused):
                    raise answer
                self._log_failure(stream, answer)
        return CanaryTotals.parse(answers[-1])

    def _log_failure(self, stream: str, error: redis.exceptions.RedisError) -> None:
        if not self._is_failure_logged:
            log.warning("%s can't be written; its comparisons are only counted: %s", stream, explain(error))
        self._is_failure_logged = True

    def _key(self, canary: Canary) -> str:
        return keys.canary(self._name, canary.version, canary.started_at)
