"""Messages to workers over pub/sub that are not commands of RQ's, or are commands that a worker refuses.

RQ's command `shutdown` is not among them: a worker obeys it, and drains.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping

_NESTED = "[" * 100_000

MESSAGES: Mapping[str, str | bytes] = {
    "nothing": "",
    "a zero byte": b"\0",
    "not UTF-8": b"\xff\xfe",
    "UTF-16": json.dumps({"command": "shutdown"}).encode("utf-16-be")[:-1],
    "a pickle": pickle.dumps({"command": "shutdown"}),
    "not JSON": "shutdown",
    "cut off": '{"command": "shutdown"',
    "two documents": '{"command": "shutdown"} {"command": "shutdown"}',
    "single quotes": "{'command': 'shutdown'}",
    "null": "null",
    "a number": "1",
    "NaN": "NaN",
    "a long number": "9" * 100_000,
    "a text": '"shutdown"',
    "a list": '["shutdown"]',
    "an empty object": "{}",
    "another field": '{"cmd": "shutdown"}',
    "another case": '{"command": "SHUTDOWN"}',
    "a space": '{"command": "shutdown "}',
    "a zero byte in the name": '{"command": "shutdown\\u0000"}',
    "a list as command": '{"command": ["shutdown"]}',
    "an object as command": '{"command": {"name": "shutdown"}}',
    "a number as command": '{"command": 1}',
    "true as command": '{"command": true}',
    "an unknown command": '{"command": "flushall"}',
    "a function as command": '{"command": "os._exit", "args": [66]}',
    "a long command": json.dumps({"command": "c" * 1_000_000}),
    "control characters": json.dumps({"command": "\x1b[2J\n2026-01-01T00:00:00Z ERROR forged"}),
    "1 MB": "j" * 1_000_000,
    "deep": _NESTED,
    "deep in a command": f'{{"command": {_NESTED}',
    "kill-horse": '{"command": "kill-horse"}',
    "stop-job": '{"command": "stop-job", "job_id": "other"}',
    "stop-job without a job": '{"command": "stop-job"}',
    "stop-job of a list": '{"command": "stop-job", "job_id": ["a"]}',
    "stop-execution": '{"command": "stop-execution", "execution_id": "other"}',
    "stop-execution without an id": '{"command": "stop-execution"}',
}
# Channels that look like a worker's, and are nobody's.
OTHER_CHANNELS = ("rq:pubsub:", "rq:pubsub:*", "rq:pubsub:nobody", "rq:pubsub:\x1b[31m", "shutdown", "*")
