"""Server options that keep a finished job small: 2.6 KB instead of 6.7 KB (docs/sizing.md has the arithmetic).

The embedded server starts with them, a worker warns if its server lacks them, and a test checks that
deploy/compose.yaml has the same values.
"""

from __future__ import annotations

# RQ keeps each job's result in a stream of its own with a single entry. A server allocates this many bytes (4096 by
# default) for the first entry of a stream, and gives the rest back only when the stream's second node begins.
STREAM_NODE_MAX_BYTES = "stream-node-max-bytes"
# A hash with a value longer than this (64 bytes by default) is stored as a hash table, which takes up to twice the
# memory. The largest value in RQ's job hash is the call, 270 to 450 bytes; a failed job's `meta` has about 700.
HASH_MAX_LISTPACK_VALUE = "hash-max-listpack-value"

MEMORY_OPTIONS = {STREAM_NODE_MAX_BYTES: "512", HASH_MAX_LISTPACK_VALUE: "1024"}
