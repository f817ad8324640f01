"""Chooses the deadline of a camera's frames: as given in milliseconds, or computed from the line's belt."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import ValidationError

from shared.belts import Belt
from shared.errors import BadSetting
from shared.setting_problems import origin
from shared.settings import Settings
from shared.validation_messages import describe_problem


@dataclass(frozen=True, slots=True)
class Deadline:
    """By when a frame's result is needed: milliseconds after its capture. None means that there is no deadline.

    `source` says where the deadline comes from, for the log: a flag or a setting, and the belt.
    """

    ms: float | None
    source: str = ""


def choose_deadline(
    settings: Settings, line: str, *, deadline_ms: float | None, belt_m_s: float | None, ejector_m: float | None
) -> Deadline:
    """The deadline by the flags of `sortline camera`. Without any of them, by the line's entry in the setting `belts`.

    Args:
        settings: give the belts.
        line: whose belt it is.
        deadline_ms, belt_m_s, ejector_m: the flags; None if they were not given.

    Raises:
        BadSetting: a flag has a value that can't be used, lacks the other one, or contradicts another one.
    """
    if belt_m_s is not None or ejector_m is not None:
        belt = _belt(belt_m_s, ejector_m)
        if deadline_ms is not None:
            raise BadSetting(
                f"--deadline-ms {deadline_ms:g} and --belt-m-s {belt.belt_m_s:g} with --ejector-m {belt.ejector_m:g} "
                f"({belt.deadline_ms:g} ms) both give the deadline: leave out --deadline-ms, or the other two."
            )
        return Deadline(belt.deadline_ms, f"{belt} (--belt-m-s, --ejector-m)")
    if deadline_ms is not None:
        if not math.isfinite(deadline_ms):
            raise BadSetting(f"--deadline-ms {deadline_ms:g} is not a number of milliseconds.")
        return Deadline(deadline_ms, "set by --deadline-ms")
    of_line = settings.belts.get(line)
    if of_line is None:
        others = ", ".join(settings.belts)
        return Deadline(None, f"belts has no entry for {line}, but for {others}" if others else "")
    return Deadline(of_line.deadline_ms, f"{of_line} (belts in {origin('belts', {})})")


def _belt(belt_m_s: float | None, ejector_m: float | None) -> Belt:
    if belt_m_s is None:
        raise BadSetting(f"--ejector-m {ejector_m:g} needs --belt-m-s too, the speed of the belt in meters a second.")
    if ejector_m is None:
        raise BadSetting(
            f"--belt-m-s {belt_m_s:g} needs --ejector-m too, the meters along the belt from the camera to the ejector."
        )
    try:
        return Belt(belt_m_s=belt_m_s, ejector_m=ejector_m)
    except ValidationError as error:
        problems = (
            f"--{str(problem['loc'][0]).replace('_', '-')} {problem['input']:g} {describe_problem(problem)}"
            for problem in error.errors()
        )
        raise BadSetting(f"{'; '.join(problems)}.") from error
