"""Tells when a file's picture was taken: from the file's time of modification, or from a stamp in its name."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime

from shared.clock import NOTABLE_OFFSET_S
from shared.errors import BadSetting

log = logging.getLogger(__name__)

_DIRECTIVES = {
    "%Y": r"(?P<Y>[12]\d{3})",
    "%m": r"(?P<m>0[1-9]|1[0-2])",
    "%d": r"(?P<d>0[1-9]|[12]\d|3[01])",
    "%H": r"(?P<H>[01]\d|2[0-3])",
    "%M": r"(?P<M>[0-5]\d)",
    "%S": r"(?P<S>[0-5]\d)",
    "%f": r"(?P<f>\d{1,9})",
    "%z": r"(?P<z>Z|[+-]\d{2}:?\d{2})",
    "%s": r"(?P<s>\d{9,10})",
    "%%": "%",
}
_TO_THE_SECOND = {"%Y", "%m", "%d", "%H", "%M", "%S"}
_EXAMPLE = "e.g. %Y%m%d_%H%M%S_%f, or %s for epoch seconds"


class StampPattern:
    """The form of a time stamp in a file's name, in the directives of strftime. It may be anywhere in the name.

    Without `%z`, the stamp is in this machine's time zone. `%f` is a fraction of a second with up to nine digits.
    """

    def __init__(self, text: str) -> None:
        """
        Raises:
            BadSetting: a directive is unknown or used twice, or the directives don't give a time to the second.
        """
        self.text = text
        parts = re.split(r"(%.?)", text)
        used = [part for part in parts if part.startswith("%") and part != "%%"]
        for directive in used:
            if directive not in _DIRECTIVES or used.count(directive) > 1:
                raise BadSetting(
                    f"stamp pattern {text!r}: {directive!r} is unknown or used twice. Use each of "
                    f"{' '.join(_DIRECTIVES)} at most once, {_EXAMPLE}."
                )
        if "%s" not in used and not set(used) >= _TO_THE_SECOND:
            raise BadSetting(f"stamp pattern {text!r} does not give a date and a time to the second: {_EXAMPLE}.")
        # With a lookahead, finditer tries every position in the name: the first digits may be the camera's number.
        self._stamp = re.compile(f"(?={''.join(_DIRECTIVES.get(part) or re.escape(part) for part in parts)})")

    def read(self, name: str, *, modified_at: float) -> float | None:
        """Return the stamp in UTC epoch seconds; None if the name has no stamp.

        Args:
            name: of the file.
            modified_at: when the file was last modified, UTC epoch seconds. It decides between the two times that a
                stamp may mean in the hour that comes twice when daylight saving time ends.
        """
        for match in self._stamp.finditer(name):
            try:
                return _seconds(match.groupdict(), modified_at=modified_at)
            except (ValueError, OverflowError):  # e.g. the 31st of February
                continue
        return None


class CaptureTimes:
    """Tells when a file's picture was taken."""

    def __init__(self, *, pattern: StampPattern | None = None, lag_ms: float = 0.0, tolerance_s: float = 0.0) -> None:
        """
        Args:
            pattern: finds the time in the file's name; None: the time is the file's time of modification.
            lag_ms: by how many milliseconds that time is later than the capture.
            tolerance_s: a time up to this far in the future counts as now: another machine's clock may be ahead.
        """
        self._pattern = pattern
        self._lag_ms = lag_ms
        self._tolerance_s = tolerance_s
        self._warned = False

    def captured_at(self, name: str, modified_ns: int, now: float) -> float | None:
        """Return UTC epoch seconds; None if there is a pattern and the name has no such stamp."""
        modified_at = modified_ns / 1e9
        at = modified_at if self._pattern is None else self._pattern.read(name, modified_at=modified_at)
        if at is None:
            return None
        if now < at <= now + self._tolerance_s:
            self._warn(name, at - now)
            at = now
        return at - self._lag_ms / 1000

    def describe(self) -> str:
        """Say where the time comes from."""
        source = "when the file was last modified" if self._pattern is None else f"from its name ({self._pattern.text})"
        return f"time of capture: {source}" + (f", minus {self._lag_ms:g} ms" if self._lag_ms else "")

    def _warn(self, name: str, ahead_s: float) -> None:
        if not self._warned and ahead_s > NOTABLE_OFFSET_S:
            log.warning(
                "the time of file %r is %.2f s in the future, and counts as now: synchronize the clocks of the camera, "
                "the share and this machine by NTP.",
                name,
                ahead_s,
            )
            self._warned = True


def _seconds(stamp: dict[str, str | None], *, modified_at: float) -> float:
    fraction = float(f"0.{stamp.get('f') or 0}")
    if stamp.get("s"):
        return int(str(stamp["s"])) + fraction
    at = datetime(*(int(str(stamp[part])) for part in "YmdHMS"))  # type: ignore[arg-type]  # six numbers
    zone = stamp.get("z")
    if zone is not None:
        at = at.replace(tzinfo=UTC if zone == "Z" else datetime.strptime(zone.replace(":", ""), "%z").tzinfo)
        return at.timestamp() + fraction
    meanings = (at.replace(fold=fold).timestamp() + fraction for fold in (0, 1))
    return min(meanings, key=lambda seconds: abs(seconds - modified_at))
