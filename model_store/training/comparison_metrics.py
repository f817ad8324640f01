"""What a comparison of recipes keeps of each training and of each mode: the fields, and their checks.

The file of `--out` has them, which anybody may have edited and another release may have written, and the tables and
`--json` need them. So the file is checked by these models when it is read, and what they promise can be relied on.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# The metrics of `TrainingMetrics` and `ClassMetrics` that are numbers, in the order of the tables.
METRICS = ("accuracy", "macro_f1", "macro_f1_defects", "map", "exact_match", "ece", "seconds")
CLASS_METRICS = ("f1", "precision", "recall", "average_precision", "threshold")

_Count = Annotated[int, Field(ge=0)]


class _Metrics(BaseModel):
    """Further metrics of `model_store.evaluation.metrics` are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class ClassMetrics(_Metrics):
    """The metrics of one class. `average_precision`: None without an image of it; `threshold`: None if it has none."""

    support: _Count
    f1: float
    precision: float
    recall: float
    average_precision: float | None
    threshold: float | None


class TrainingMetrics(_Metrics):
    """The metrics of one training; see `RecipeTrainer.train_and_judge`."""

    accuracy: float
    macro_f1: float
    macro_f1_defects: float
    map: float | None
    exact_match: float
    ece: float
    seconds: float
    chosen: dict[str, str]
    per_class: Annotated[dict[str, ClassMetrics], Field(min_length=1)]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Unreadable(_Facts):
    """A file that is not a usable image."""

    file: str
    reason: str


class JudgedFacts(_Facts):
    """The other dataset: its path, how many of its images judge, and those that can't be read."""

    path: str
    images: _Count
    unreadable: tuple[Unreadable, ...]


class TunedImages(_Facts):
    """How many of the images tuned the layers that a recipe starts from: of those to learn from, and of `--test`.

    None: the file of the layers, or that of `--out`, doesn't say; or, for `test`, there is no other dataset.
    """

    learn: _Count | None = None
    test: _Count | None = None


class ModeFacts(_Facts):
    """What is the same for all trainings of a mode.

    `tuned_on` has the recipes that start from tuned layers, by name. Files of earlier releases lack the fields with
    defaults.
    """

    images: _Count
    unreadable: tuple[Unreadable, ...]
    excluded: tuple[str, ...]
    excluded_reasons: dict[str, str] = {}
    validation_refused: str | None = None
    test: JudgedFacts | None
    tuned_on: dict[str, TunedImages] = {}
