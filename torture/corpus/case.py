"""One file of the corpus, and what must become of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

SORTED, REJECTED = "sorted", "rejected"

# What the message of each reason (`BadImage.reason`) looks like, the most specific first.
_MESSAGES: tuple[tuple[str, str], ...] = (
    ("empty", r"the image has no bytes"),
    ("format", r"not an accepted image but"),
    ("too_large_bytes", r"\(max_image_bytes\)"),
    ("too_large_px", r"\(max_image_px\)|\(max_decode_bytes\)"),
    ("truncated", r"ends too early|lacks a part of its picture"),
    ("unsupported", r"\((4 times )?max_decode_s\)|big-endian BigTIFF"),
    ("unsupported", r"has more than [\d,]+ (tags|scans|segments|chunks)"),
    ("unsupported", r"tags hold [\d,]+ numbers|bits per sample: send 8|stores 16-bit samples channel by channel"),
    ("unsupported", r"samples only go up to|gray values from"),
    ("corrupt", r"is damaged, or of a kind that is not known|the header says|tags claim|crashed the decoder"),
    ("unreadable", r"not a usable zip archive|can't be read"),
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What may become of a file. Two answers are right only where `why` says so."""

    may_be_sorted: bool
    reasons: frozenset[str] = frozenset()  # for any of which it may be rejected
    why: str = ""

    def allows(self, outcome: str, text: str | None) -> bool:
        """Whether this outcome is right, and its text states a reason that is."""
        if outcome == SORTED:
            return self.may_be_sorted
        return outcome == REJECTED and reason_in(text or "") in self.reasons

    def __str__(self) -> str:
        answers = [SORTED] if self.may_be_sorted else []
        return " or ".join(answers + [f"{REJECTED} ({reason})" for reason in sorted(self.reasons)])


@dataclass(frozen=True, slots=True)
class Case:
    """One file. Its content is made when it is needed."""

    name: str  # of the file, with a suffix that cameras take for a picture's
    family: str
    make: Callable[[], bytes]
    expected: Expected


# How each file is made, and what must become of it, by name.
Files = dict[str, tuple[Callable[[], bytes], Expected]]


def is_sorted() -> Expected:
    """The file is a usable image."""
    return Expected(may_be_sorted=True)


def rejected(*reasons: str) -> Expected:
    """The file is not usable, for any of these reasons."""
    return Expected(may_be_sorted=False, reasons=frozenset(reasons))


def either(*reasons: str, why: str) -> Expected:
    """Both answers are right."""
    return Expected(may_be_sorted=True, reasons=frozenset(reasons), why=why)


def reason_in(text: str) -> str | None:
    """The reason that a message states; None if it states none that is known."""
    return next((reason for reason, pattern in _MESSAGES if re.search(pattern, text)), None)
