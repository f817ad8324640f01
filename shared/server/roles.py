"""The users that a plant's server should have: what each role may do there, as ACL rules of Redis 7 and Valkey.

Every permission but the administrator's is listed: a command of a new release of the server is denied until somebody
adds it here. A function or script runs with the rights of its caller, so a role has the rights that its functions need,
too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from shared import keys

ANY = "*"


class Role(StrEnum):
    """Who uses the server."""

    PRODUCER = "producer"  # cameras and uploaders: they send images, and wait for their own results
    WORKER = "worker"
    VIEWER = "viewer"  # `sortline results`, dashboards: they read the lines' results and the counts of canaries
    READER = "reader"  # ejectors: they read results in consumer groups
    ADMIN = "admin"  # a person with RQ's tools, who loads functions


@dataclass(frozen=True, slots=True)
class Grant:
    """Some commands, and the keys on which they may be used: each of them on each of the keys."""

    commands: str  # names or @categories, separated by spaces; a - before it takes away what stands before
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    both: tuple[str, ...] = ()

    def rules(self) -> list[str]:
        """The grant as ACL rules."""
        patterns = [("%R~", self.read), ("%W~", self.write), ("~", self.both)]
        commands = [name if name.startswith("-") else f"+{name}" for name in self.commands.split()]
        return commands + [prefix + pattern for prefix, names in patterns for pattern in names]


@dataclass(frozen=True, slots=True)
class Rights:
    """All that a role may do. The first grant is the user's own, the others become selectors."""

    grants: tuple[Grant, ...]
    channels: tuple[str, ...] = ()

    def rules(self) -> list[str]:
        """The rights as ACL rules, to be given to a user who has none yet."""
        first, *others = self.grants
        rules = ["resetkeys", "resetchannels", "clearselectors", "-@all", *first.rules()]
        rules += [f"&{channel}" for channel in self.channels]
        return rules + [f"({' '.join(('-@all', *grant.rules()))})" for grant in others]


# What the client library and `shared.server.connection` send on every connection.
_CONNECTION = "hello ping select client|setname"

_JOB, _IMAGE = keys.rq_job(ANY), keys.image(ANY)


def _producer(queues: Sequence[str]) -> Rights:
    """The rights of a producer that sends to these queues."""
    lists, suspects, leases, wakeups, loads, flows = (
        tuple(key(queue) for queue in queues)
        for key in (keys.rq_queue, keys.suspects, keys.rq_wip, keys.wakeup, keys.load, keys.flow)
    )
    return Rights(
        (
            Grant(f"{_CONNECTION} multi exec time"),
            Grant("fcall", both=(keys.RQ_QUEUES, _JOB, _IMAGE, *lists, *suspects, *leases, *wakeups, *loads, *flows)),
            Grant("set", write=(_IMAGE,)),
            Grant("unlink", write=(_IMAGE, _JOB, keys.NEVER_WRITTEN, *wakeups, *loads, *flows)),
            Grant("hset", write=(_JOB, *loads, *flows)),
            Grant("hget hmget", read=(_JOB, *loads, *flows)),
            Grant("hincrby", both=loads),
            Grant("expire", write=flows),
            Grant("rpush llen lindex", both=lists),
            Grant("llen", read=suspects),
            Grant("zcard", read=leases),
            Grant("sadd", write=(keys.RQ_QUEUES,)),
            Grant("lpush ltrim", write=wakeups),
            # Waiting for results, and explaining why there is none.
            Grant("xrevrange", read=(keys.rq_results(ANY),)),
            Grant("smembers", read=(keys.RQ_WORKERS,)),
            Grant("hget", read=(keys.rq_worker(ANY),)),
            Grant("exists", read=(keys.RQ_SUSPENDED,)),
        )
    )


_WORKER = Rights(
    (
        Grant(
            f"{_CONNECTION} multi exec time info client|info function|load function|list "
            "eval evalsha subscribe scan "
            "memory|usage exists type del unlink rename expire persist ttl "
            "mget strlen "
            "llen lindex lpos lrange lpush rpush ltrim blpop "
            "hget hmget hgetall hlen hstrlen hexists hset hsetnx hincrby hincrbyfloat hdel "
            "sadd srem smembers sscan srandmember "
            "zadd zcard zcount zscore zmscore zrange zrangebyscore zrevrange zrem zremrangebyscore "
            "xadd xrevrange",
            both=("rq:*", "sortline:*"),
        ),
    ),
    channels=("rq:pubsub:*",),
)

_RESULTS = keys.results(ANY)
_VIEWER = Rights(
    (
        Grant(_CONNECTION),
        Grant("xread xrevrange xinfo|stream", read=(_RESULTS, keys.shadow(ANY))),
        Grant("smembers", read=(keys.LINES,)),
        Grant("hmget", read=("sortline:canary:*",)),
    )
)
_READER = Rights(
    (
        Grant(f"{_CONNECTION} multi exec"),
        Grant("xinfo|stream xinfo|groups", read=(_RESULTS,)),
        Grant("xreadgroup xautoclaim", both=(_RESULTS,)),
        Grant("xgroup|create xack", write=(_RESULTS,)),
        Grant("smembers", read=(keys.LINES,)),
    )
)

# All that RQ's tools need. Not: users, the server's configuration, its data as a whole, and other programs' keys. No
# role may read the configuration (CONFIG GET), because it shows the passwords of the server itself.
_ADMIN = Rights(
    (Grant("@all -@dangerous info acl|log acl|whoami", both=("rq:*", "sortline:*")),),
    channels=("rq:*",),
)

_RIGHTS = {
    Role.PRODUCER: _producer([ANY]),
    Role.WORKER: _WORKER,
    Role.VIEWER: _VIEWER,
    Role.READER: _READER,
    Role.ADMIN: _ADMIN,
}


def rights_of(role: Role) -> Rights:
    """All that a role may do."""
    return _RIGHTS[role]


def rules(role: Role, queues: Sequence[str] = ()) -> list[str]:
    """The ACL rules of a role, for `ACL SETUSER name on >password …`.

    Args:
        role: whose rights.
        queues: the queues to which a producer may send; none means all. The other roles' rights don't depend on queues.
    """
    return (_producer(queues) if queues else _RIGHTS[role]).rules()


def user_line(role: Role, *, name: str, password: str, queues: Sequence[str] = ()) -> str:
    """A user of that role, as a line of the server's ACL file. It holds the password's SHA-256, not the password."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    return f"user {name} on #{digest} {' '.join(rules(role, queues))}"
