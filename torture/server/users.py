"""The users of the torture's own server: workers and producers log in with the rights of their roles, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import redis

from shared.server.roles import Role, user_line

EXPECTED = (f"{Role.PRODUCER}: command function|load", f"{Role.WORKER}: command config|get")


def write_users(path: Path) -> None:
    """Write the server's ACL file: a user for each role, named like it, and the default user, who may do everything."""
    lines = [
        "user default on nopass ~* &* +@all",
        *(user_line(role, name=role, password=password_of(role)) for role in Role),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def password_of(role: Role) -> str:
    """No word that a log has: a worker's log masks its password wherever it appears."""
    return f"{role}-4d1f9c0b"


def url_as(role: Role, redis_url: str) -> str:
    """The URL of the server, or of a proxy before it, for the user of that role."""
    return redis_url.replace("://", f"://{role}:{password_of(role)}@", 1)


def denials(client: redis.Redis) -> list[str]:
    """What the server has denied to these users since its start, one line each.

    Two denials are expected: a producer tries to load its functions when the server has lost them, and a worker tries
    once to read options that waste memory. Both go on without.
    """
    entries = cast("list[dict[str, object]]", client.acl_log())
    found = [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in entries]
    return [denial for denial in found if denial not in EXPECTED]
