"""How a sort job is written as an RQ job: what producer and worker must agree on."""

from __future__ import annotations

# The only function that Sortline's jobs name, and the only one that its worker runs.
SORT_IMAGE = "worker.tasks.sort_image"
