"""Names and limits in the RQ job of an image, shared by producer and worker."""

from __future__ import annotations

# The only function that Sortline's jobs name, and the only one that a worker accepts.
SORT_IMAGE = "worker.tasks.sort_image"

# Our own field in RQ's hash of a job: how many attempts the producer allows.
MAX_ATTEMPTS_FIELD = "sortline_max_attempts"
# Upper bound of the setting max_attempts, and of the numbers in a job's hash. In common.lua it is MAX_RETRIES + 1.
MAX_ATTEMPTS = 100

# Fields of our own in RQ's hash of a job, which RQ ignores. The scripts read them, because they can't read its data.
DEADLINE_FIELD = "sortline_deadline"  # by the server's clock: epoch seconds; absent if the job has no deadline
CLOCK_OFFSET_FIELD = "sortline_clock_offset"  # the producer's clock minus the server's, seconds; absent if 0
LINE_FIELD = "sortline_line"  # the line, which is also in the data
BYTES_FIELD = "sortline_bytes"  # the length of the image

# A job fails for good when it has crashed its worker this often while the worker held nothing else. In reap.lua too.
MAX_CRASHES = 3
# Upper bound of the setting max_losses, and of the counts in a job's hash. In reap.lua it is MAX_COUNT.
MAX_LOSSES = 1000
# The longest id of a job that a worker answers, as in common.lua. RQ's own ids have 36 bytes, ours at most 64.
MAX_ID_BYTES = 200
# A job's hash that takes more memory than this is no job: workers delete it unread. In common.lua too.
MAX_HASH_BYTES = 4_000_000
