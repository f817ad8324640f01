"""Names and limits in the RQ job of an image, shared by producer and worker."""

from __future__ import annotations

# The only function that Sortline's jobs name, and the only one that a worker accepts.
SORT_IMAGE = "worker.tasks.sort_image"

# Our own field in RQ's hash of a job: how many attempts the producer allows.
MAX_ATTEMPTS_FIELD = "sortline_max_attempts"
# Upper bound of the setting max_attempts, and of the numbers in a job's hash. In common.lua it is MAX_RETRIES + 1.
MAX_ATTEMPTS = 100

# A job fails for good when it has crashed its worker this often while the worker held nothing else. In reap.lua too.
MAX_CRASHES = 3
# Upper bound of the setting max_losses, and of the counts in a job's hash. In reap.lua it is MAX_COUNT.
MAX_LOSSES = 1000
