"""How a sort job is written as an RQ job: what producer and worker must agree on."""

from __future__ import annotations

# The only function that Sortline's jobs name, and the only one that its worker runs.
SORT_IMAGE = "worker.tasks.sort_image"

# A job's hash is RQ's. This field of it is ours: how often the producer lets the job be tried.
MAX_ATTEMPTS_FIELD = "sortline_max_attempts"
# Bounds the setting and the numbers in a job's hash. The scripts have it too: MAX_RETRIES in common.lua.
MAX_ATTEMPTS = 100
