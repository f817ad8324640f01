"""How a sort job is written as an RQ job: the names that producer and worker share."""

from __future__ import annotations

# The only function that Sortline's jobs name, and the only one that its worker runs.
SORT_IMAGE = "worker.tasks.sort_image"

# Our own field in RQ's hash of a job: how many attempts the producer allows.
MAX_ATTEMPTS_FIELD = "sortline_max_attempts"
# Bounds the setting and the numbers in a job's hash. The scripts have it too: MAX_RETRIES in common.lua.
MAX_ATTEMPTS = 100

# So often may a job crash its worker while nothing else is in hand. reap.lua has it too.
MAX_CRASHES = 3
# Bounds the setting max_losses and the counts in a job's hash. reap.lua has it too, as MAX_COUNT.
MAX_LOSSES = 1000
