"""The record of a comparison of recipes: each finished training, written to a file at once.

Trainings take minutes, and a comparison has dozens. If it ends early, another one with the same file goes on where it
stopped. The file is replaced as a whole, so it is complete at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from model_store.bundle.policy import Mode
from model_store.training.comparison_metrics import ModeFacts, TrainingMetrics
from shared.errors import BadSetting
from shared.json_text import as_json
from shared.output_files import replace_file, unwritable_error
from shared.regular_files import read_regular
from shared.validation_messages import describe_problems

# A training takes about 2 KB; one with 1,000 classes a few MB.
_MAX_BYTES = 500_000_000
# By the key in `made_with`: what to call it in a message.
_MADE_WITH = {
    "dataset": "DATASET: its images, labels or held_out.txt differ",
    "test": "--test: its images or labels differ, or only one of the two comparisons has it",
    "decoding": "limits or sample_bits in the settings",
}


class FinishedTraining(BaseModel):
    """One training by a recipe, and the metrics of the images that it was judged by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode
    recipe: str
    seed: int
    backbone_sha256: str
    metrics: TrainingMetrics

    @property
    def key(self) -> tuple[Mode, str, int]:
        """What a file has at most one training of."""
        return self.mode, self.recipe, self.seed


class _Content(BaseModel):
    """The file. `modes` has what is the same for all trainings of a mode, e.g. the files that are not used."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["sortline-recipe-comparison-1"] = "sortline-recipe-comparison-1"
    made_with: dict[str, Any]
    recipes: dict[str, dict[str, str]] = {}
    modes: dict[Mode, ModeFacts] = {}
    trainings: list[FinishedTraining] = []

    @model_validator(mode="after")
    def _has_what_trainings_need(self) -> _Content:
        """Each training is there once, with its mode's facts, its recipe, and the classes of the others of its mode."""
        if lacking := {one.mode for one in self.trainings} - self.modes.keys():
            raise ValueError(f"it has trainings in the mode {min(lacking)}, but no facts about it in `modes`")
        if unknown := {one.recipe for one in self.trainings} - self.recipes.keys():
            raise ValueError(f"it has trainings by the recipe {min(unknown)}, which is not in `recipes`")
        classes: dict[Mode, set[str]] = {}
        seen: set[tuple[Mode, str, int]] = set()
        for one in self.trainings:
            which = f"{one.mode}, {one.recipe}, seed {one.seed}"
            if one.key in seen:
                raise ValueError(f"it has the training {which} twice")
            seen.add(one.key)
            if classes.setdefault(one.mode, {*one.metrics.per_class}) != {*one.metrics.per_class}:
                raise ValueError(f"the training {which} has other classes than the first one of its mode")
        return self


class ComparisonRecord:
    """The finished trainings of a comparison, and their file if there is one."""

    def __init__(self, path: Path | None, content: _Content, *, written: bytes) -> None:
        """Store the arguments. Use `open`."""
        self._path = path
        self._content = content
        self._written = written

    @classmethod
    def open(
        cls, path: Path | None, *, made_with: Mapping[str, Any], recipes: Mapping[str, dict[str, str]]
    ) -> ComparisonRecord:
        """Read the file, or begin with nothing if there is none.

        Args:
            path: the file. None: nothing is read or written.
            made_with: what all trainings in one file have in common.
            recipes: what makes each recipe, by name.

        Raises:
            BadSetting: it is another kind of file, is damaged, or was made with something else. It is left as it is.
        """
        written = _read(path) if path is not None else b""
        if path is None or not written:
            return cls(path, _Content(made_with=dict(made_with), recipes=dict(recipes)), written=written)
        content = _parse(written, path)
        for key, what in _MADE_WITH.items():
            if content.made_with.get(key) != made_with.get(key):
                raise BadSetting(
                    f"--out {path} was made with another {what}. Continue with that, or name another file."
                )
        for name, choices in recipes.items():
            if content.recipes.setdefault(name, choices) != choices:
                before = ",".join(content.recipes[name].values())
                raise BadSetting(
                    f"--out {path} was made with another recipe {name}: {before}; now it is "
                    f"{','.join(choices.values())}. Name another file, or the recipe otherwise."
                )
        return cls(path, content, written=written)

    def find(self, mode: Mode, recipe: str, seed: int) -> FinishedTraining | None:
        """A finished training."""
        return next((one for one in self._content.trainings if one.key == (mode, recipe, seed)), None)

    def facts(self, mode: Mode) -> ModeFacts:
        """What was recorded about a mode that has finished trainings."""
        return self._content.modes[mode]

    def set_facts(self, mode: Mode, facts: ModeFacts) -> None:
        """Record what is the same for all trainings of a mode. It is written with the next training.

        What was recorded about recipes that `facts` doesn't name is kept.
        """
        before = self._content.modes.get(mode)
        tuned_on = {} if before is None else before.tuned_on
        self._content.modes[mode] = facts.model_copy(update={"tuned_on": tuned_on | facts.tuned_on})

    def check_backbone(self, recipe: str, sha256: str) -> None:
        """Raise if the recipe's finished trainings had other weights under the same handle.

        Raises:
            BadSetting: names the recipe.
        """
        if any(one.recipe == recipe and one.backbone_sha256 != sha256 for one in self._content.trainings):
            raise BadSetting(
                f"--out {self._path}: the backbone of the recipe {recipe} has other weights now than in the trainings "
                "in the file. Name another file."
            )

    def add(self, training: FinishedTraining) -> None:
        """Add a finished training, and write the file.

        Raises:
            BadSetting: it can't be written, or another program has changed it meanwhile.
        """
        self._content.trainings.append(training)
        if self._path is None:
            return
        if _read(self._path) != self._written:
            raise BadSetting(f"--out {self._path} was changed by another program. Name one file for each comparison.")
        data = (as_json(self._content.model_dump(), indent=1, ascii_only=True) + "\n").encode()
        try:
            replace_file(self._path, data)
        except OSError as error:
            raise unwritable_error(self._path, error, flag="--out") from error
        self._written = data


def _read(path: Path) -> bytes:
    """The file's bytes; none if it doesn't exist."""
    try:
        return read_regular(path, max_bytes=_MAX_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadSetting(
            f"--out {path} can't be read: {error.strerror}. A comparison goes on from this file: name a regular one."
        ) from error


def _parse(data: bytes, path: Path) -> _Content:
    try:
        return _Content.model_validate_json(data)
    except ValidationError as error:
        raise BadSetting(
            f"--out {path} is no record of a comparison, or is damaged: {describe_problems(error)[:300]}. It is left "
            "as it is. Name another file."
        ) from error
