"""Cameras, uploads and the simulator: images onto the queues, results back. Imports only `shared` of ours.

The names below are imported on first use, so that `import producer` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producer.results import iter_results, wait_for
    from producer.submit import Frame, LineProducer

__all__ = ["Frame", "LineProducer", "iter_results", "wait_for"]

_HOMES = {
    "Frame": "producer.submit",
    "LineProducer": "producer.submit",
    "iter_results": "producer.results",
    "wait_for": "producer.results",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
