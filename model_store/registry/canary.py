"""A canary: the intent to try a version on some of the images before it is promoted.

Kept by the store beside the `current` pointer, read by workers. It says what to do; who does it is `worker`.
"""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shared.schemas import Name


class Canary(BaseModel):
    """Which version is tried, on how many images, and when the trial is to end by itself.

    `share` of a line's images go to the canary: it acts on them, or, in `shadow`, its answers are only
    recorded. Each of them is also answered by the current version; the trial ends when, of at least
    `min_images` compared images, more than the share `max_disagreement` was answered differently.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Annotated[int, Field(ge=1)]
    share: Annotated[float, Field(gt=0, le=1)]
    shadow: bool = False
    max_disagreement: Annotated[float, Field(ge=0, le=1)] = 0.1
    min_images: Annotated[int, Field(ge=1)] = 200
    lines: tuple[Name, ...] = ()  # empty: all lines
    started_at: float = Field(default_factory=time.time)  # UTC epoch seconds; tells two trials of one version apart
