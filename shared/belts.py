"""The belt of a line: from its speed and the way to the ejector follows the deadline of each frame."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

# The limits keep every deadline between 0.01 ms and about a day, which a job may have. No belt comes near them.
MIN_BELT_M_S, MAX_BELT_M_S = 0.01, 100.0
MIN_EJECTOR_M, MAX_EJECTOR_M = 0.001, 1000.0


class Belt(BaseModel):
    """How fast the belt of a line moves, and how far the ejector is from the camera, along the belt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    belt_m_s: float = Field(ge=MIN_BELT_M_S, le=MAX_BELT_M_S)
    ejector_m: float = Field(ge=MIN_EJECTOR_M, le=MAX_EJECTOR_M)

    @property
    def deadline_ms(self) -> float:
        """Milliseconds from the capture until the bottle is at the ejector."""
        return self.ejector_m / self.belt_m_s * 1000

    def __str__(self) -> str:
        return f"{self.ejector_m:g} m at {self.belt_m_s:g} m/s"
