"""Cameras, uploads and the simulator: images onto the queues, results back. Imports only `shared` of ours.

Users import the names below from `sortline`. They stay here for code that was written before that package was there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producer.results import iter_results, wait_for
    from producer.submit import Frame, LineProducer
else:
    from shared.lazy_names import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {"producer.results": ("iter_results", "wait_for"), "producer.submit": ("Frame", "LineProducer")},
    )

__all__ = ["Frame", "LineProducer", "iter_results", "wait_for"]
