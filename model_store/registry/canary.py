"""A canary: the intent to try a version on a share of the images before it is promoted.

The store keeps it next to the file `current`. Workers read it and act on it.
"""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from model_store.bundle.manifest import MAX_VERSION, YEAR_2100_AT
from shared.schemas import Name


class Canary(BaseModel):
    """Which version is tried, on how many images, and when the canary ends by itself.

    The fraction `share` of each line's images goes to the canary as well as to the current version. The canary's
    answer counts for them; with `shadow` it is only recorded. The canary ends when the two versions answered more than
    the fraction `max_disagreement` of the compared images differently; as long as fewer than `min_images` are compared,
    more than that fraction of `min_images`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    share: Annotated[float, Field(gt=0, le=1)]
    shadow: bool = False
    max_disagreement: Annotated[float, Field(ge=0, le=1)] = 0.1
    min_images: Annotated[int, Field(ge=1, le=1_000_000_000)] = 200
    lines: tuple[Name, ...] = ()  # empty: all lines
    # UTC epoch seconds; tells two canaries of one version apart.
    started_at: float = Field(default_factory=time.time, ge=0, le=YEAR_2100_AT)
