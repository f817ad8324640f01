"""The two messages of the system, ImageJob (producer to worker) and SortResult (worker to everyone).

Times of events are UTC epoch seconds (`…_at`); durations carry their unit.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

SCHEMA_VERSION = 1

_set = object.__setattr__  # messages are frozen

# Names become parts of Redis keys and metric labels. They are short and printable, and hold no separator of either.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
NAME_RULE = "use 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit"


# Selects images of which the model isn't sure, in settings that otherwise take outcomes, e.g. `archive_outcomes`.
UNCERTAIN = "uncertain"

# The form of an outcome's name, in this release and later ones.
_OUTCOME_PATTERN = re.compile(r"[a-z][a-z_]{0,31}")


def is_name(text: str) -> bool:
    """Whether `text` can be a Name."""
    return re.fullmatch(NAME_PATTERN, text) is not None


class Outcome(StrEnum):
    """How a job ended."""

    SORTED = "sorted"  # classified in time
    LATE = "late"  # classified, but past its deadline: do not fire
    EXPIRED = "expired"  # the deadline had passed, or could not be met, before the model ran: not classified
    REJECTED = "rejected"  # not a usable image
    FAILED = "failed"  # given up, e.g. after `max_attempts` failures

    @classmethod
    def _missing_(cls, value: object) -> Outcome | None:
        """Accept an outcome that only a newer release knows. It keeps its name, and is treated as not `sorted`."""
        if not (isinstance(value, str) and _OUTCOME_PATTERN.fullmatch(value)):
            return None
        outcome = str.__new__(cls, value)
        outcome._name_, outcome._value_ = value.upper(), value
        return outcome


class _Message(BaseModel):
    # Fields that a newer release adds are ignored in both messages, because producers and workers of two releases run
    # side by side during an upgrade. If our own code misspells a field, mypy finds it, or, for messages that
    # `construct_unvalidated` makes, a test.
    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def construct_unvalidated(cls, fields: dict[str, Any]) -> Self:
        """Make a message without validation, from values that our own code has made. `fields` must hold every field.

        A worker makes thousands of results a second; validating a result takes longer than making it.
        """
        made = cls.__new__(cls)
        _set(made, "__dict__", fields)
        _set(made, "__pydantic_fields_set__", cls.__pydantic_fields__.keys())
        _set(made, "__pydantic_extra__", None)
        _set(made, "__pydantic_private__", None)
        return made

    def json_bytes(self) -> bytes:
        """The message as JSON. The same as `model_dump_json`, in less than half the time."""
        return self.__pydantic_serializer__.to_json(self)


class ImageJob(_Message):
    """One image to sort: the only argument of `worker.tasks.sort_image`.

    The job does not hold the image's bytes. They are in the Redis key `image_key`. `captured_at` and `deadline_at` are
    by the producer's clock; how far that is from the server's is beside it, in the job's hash (`shared.jobs`).
    """

    job_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    line: Name
    camera: Name
    frame_id: int | Annotated[str, Field(max_length=256)] | None = None
    encoder_count: int | None = None
    captured_at: FiniteFloat
    deadline_at: FiniteFloat | None = None
    queue: Name
    image_key: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    content_type: str
    schema_version: int = SCHEMA_VERSION


class Label(_Message):
    """One property that applies to the bottle, with the model's probability (0..1)."""

    label: str
    probability: float


class ModelRef(_Message):
    """Which model made a result."""

    name: str
    version: int
    engine: str


class Timings(_Message):
    """Milliseconds spent per stage; None for a stage that the image never reached.

    `queue` is the time from enqueue to claim, `batch` the wait for the batch to start, `infer` the time that the batch
    spent in the model, and `total` the time from capture to result. `total` is right even if the clocks of producer and
    worker differ, because both are compared with the server's; so is `queue`, unless the job was put back meanwhile.
    """

    queue: float | None = None
    decode: float | None = None
    batch: float | None = None
    infer: float | None = None
    total: float | None = None


class SortResult(_Message):
    """The result of one image. RQ's return value and the line's stream carry the same object.

    `captured_at` is the producer's own value, by its clock; `finished_at` is by the Redis server's. Don't subtract one
    from the other: `timings_ms.total` is the time between them, and `deadline_margin_ms` the time left to the deadline,
    both right whatever the clocks. The margin is positive when the result was in time, negative when it was late, and
    None without a deadline. `lane` is where the bottle goes; for every outcome but `sorted` it is the policy's
    `unsorted_lane`, because such a result must not eject a bottle. `uncertain` is true if the model isn't sure of
    `labels`; a `sorted` bottle then goes to the policy's `manual_lane`.
    """

    job_id: str
    line: str
    camera: str
    frame_id: int | str | None = None
    encoder_count: int | None = None
    captured_at: float
    finished_at: float
    outcome: Outcome
    labels: tuple[Label, ...] = ()
    lane: str
    uncertain: bool = False
    model: ModelRef | None = None
    timings_ms: Timings = Timings()
    deadline_margin_ms: float | None = None
    attempt: int = 1
    worker: str
    error: str | None = None
