"""Other ways to do the same work, measured beside Sortline with `sortline bench --peers`.

Each has the same images, the same decoder and model (`worker.models.loading`), the same cores and, where it has a
queue, the same server. It is set up as its own documentation recommends for speed. celery-batches and mosec answer with
less than a SortResult. RQ's own workers do all that Sortline's does: they run `worker.tasks`, which checks the job,
and writes the same SortResult for RQ and for the line's stream.
"""

from __future__ import annotations

import importlib.util

from model_store.engines.loading import tensorflow_installed

PEERS_HINT = "pip install 'sortline[peers]'"
TENSORFLOW_HINT = "pip install 'sortline[train]'"


def celery_missing() -> str | None:
    """How to install celery-batches; None if it is installed."""
    there = all(importlib.util.find_spec(name) for name in ("celery", "celery_batches"))
    return None if there else PEERS_HINT


def mosec_missing() -> str | None:
    """How to install mosec; None if it is installed."""
    return None if importlib.util.find_spec("mosec") else PEERS_HINT


def tensorflow_missing() -> str | None:
    """How to install TensorFlow; None if it is installed."""
    return None if tensorflow_installed() else TENSORFLOW_HINT
