"""The parts of a model's policy that the settings may override, line by line.

`model_store.bundle.policy` has the policy itself, and merges the overrides into it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Probability = Annotated[float, Field(ge=0, le=1)]
# At 0.5 every probability but 0 and 1 is uncertain: a wider band would leave nothing to decide.
Margin = Annotated[float, Field(ge=0, le=0.5)]
Lane = Annotated[str, Field(min_length=1)]


class PolicyOverride(BaseModel):
    """The parts of the bundle's policy that one line overrides. All other parts stay as in the bundle.

    `thresholds` and `lanes` are merged class by class. The classes in `precedence` come first; the other classes
    follow in the bundle's order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    thresholds: dict[str, Probability] = Field(default_factory=dict)
    precedence: tuple[str, ...] = ()
    lanes: dict[str, Lane] = Field(default_factory=dict)
    manual_lane: Lane | None = None
    unsorted_lane: Lane | None = None
    uncertain_margin: Margin | None = None

    @model_serializer(mode="wrap")
    def _only_what_is_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value not in (None, {}, [], ())}
