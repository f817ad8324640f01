"""Other ways to do the same work, measured beside Sortline with `sortline bench --peers`.

Each has the same images, the same decoder and model (`worker.models.loading`), the same cores and, where it has a
queue, the same server; it is set up as its own documentation says is fastest. celery-batches and mosec answer with
less than a SortResult. RQ's own workers do all that Sortline's does: they run `worker.tasks`, which checks the job,
and writes the same SortResult for RQ and for the line's stream.
"""

from __future__ import annotations

import importlib.util

from model_store.engines.loading import tensorflow_installed

PEERS_HINT = "pip install 'sortline[peers]'"
TENSORFLOW_HINT = "pip install 'sortline[train]'"


def celery_missing() -> str | None:
    """How to install celery-batches; None where it is."""
    there = all(importlib.util.find_spec(name) for name in ("celery", "celery_batches"))
    return None if there else PEERS_HINT


def mosec_missing() -> str | None:
    """How to install mosec; None where it is."""
    return None if importlib.util.find_spec("mosec") else PEERS_HINT


def tensorflow_missing() -> str | None:
    """How to install TensorFlow; None where it is."""
    return None if tensorflow_installed() else TENSORFLOW_HINT
