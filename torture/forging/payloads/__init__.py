"""What is forged, as tables: the contents of jobs, ids, messages, members of registries, values in Sortline's keys.

Each entry of PAYLOADS is one forged job.
"""

from __future__ import annotations

from collections.abc import Mapping

from torture.forging.payloads.calls import CALLS
from torture.forging.payloads.image_jobs import IMAGE_JOBS
from torture.forging.payloads.job_fields import JOB_FIELDS
from torture.forging.payloads.packed_data import DATA
from torture.forging.payloads.payload import Payload

PAYLOADS: Mapping[str, Payload] = {**CALLS, **DATA, **IMAGE_JOBS, **JOB_FIELDS}
