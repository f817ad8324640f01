"""Waits until something is true. Used by every part of the torture."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from shared.errors import Transient

# Longer than anything here takes, also on a busy machine.
PATIENCE_S = 120.0
_POLL_S = 0.02


def wait_until(is_true: Callable[[], Any], what: str, *, timeout_s: float = PATIENCE_S) -> None:
    """Wait until `is_true()`. `what` says in words what it waits for, for the error.

    Raises:
        Transient: it did not become true within `timeout_s`.
    """
    until = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > until:
            raise Transient(f"waited {timeout_s:.0f} s in vain until {what}.")
        time.sleep(_POLL_S)
