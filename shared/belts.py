"""The belt of a line: from its speed and the way to the ejector follows the deadline of each frame."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Belt(BaseModel):
    """How fast the belt of a line moves, and how far the ejector is from the camera, along the belt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    belt_m_s: float = Field(gt=0, le=100)
    ejector_m: float = Field(gt=0, le=1000)

    @property
    def deadline_ms(self) -> float:
        """Milliseconds from the capture until the bottle is at the ejector."""
        return self.ejector_m / self.belt_m_s * 1000
