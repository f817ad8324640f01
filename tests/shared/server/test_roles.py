"""The roles' rights on Debian's Redis and on Valkey: what each may do and may not, as docs/server-users.md says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from shared import keys
from shared.server import functions
from shared.server.roles import Role, rights_of, rules, user_line
from tests.kit import PROJECT
from tests.shared.server.servers import debian_server

PAGE = PROJECT / "docs" / "server-users.md"
P, W, V, R, A = Role.PRODUCER, Role.WORKER, Role.VIEWER, Role.READER, Role.ADMIN
SUBMIT = functions.name_of(functions.Function.SUBMIT)
# What somebody may want to do, the command, and who may.
DEEDS: dict[str, tuple[str, set[Role]]] = {
    "write an image": ("SET sortline:image:x y EX 9", {P, A}),
    "write an image that never expires": ("SET sortline:image:x y", {P, A}),
    "read an image": ("MGET sortline:image:x", {W, A}),
    "read images one by one": ("GET sortline:image:x", {A}),
    "read an image while writing it": ("SET sortline:image:x y GET", {A}),
    "delete an image": ("UNLINK sortline:image:x", {P, W, A}),
    "write a job": ("HSET rq:job:x status queued", {P, W, A}),
    "read a job": ("HMGET rq:job:x status meta", {P, W, A}),
    "add a job to a queue": ("RPUSH rq:queue:live x", {P, W, A}),
    "take a job from a queue": ("LPOP rq:queue:live", {A}),
    "empty a queue": ("DEL rq:queue:live", {W, A}),
    "call our function": (f"FCALL {SUBMIT} 1 rq:queue:live", {P, A}),
    "call it with another's key": (f"FCALL {SUBMIT} 1 other:key", set()),
    "change what a queue counts": ("HSET sortline:load:live items 9", {P, W, A}),
    "change a queue's rates": ("HSET sortline:flow:live capacity 9", {P, W, A}),
    "see which workers there are": ("SMEMBERS rq:workers", {P, W, A}),
    "run a script": ("EVAL return 0", {W, A}),
    "load functions": ("FUNCTION LOAD text", {W, A}),
    "delete functions": (f"FUNCTION DELETE {functions.library_name()}", {A}),
    "read a line's results": ("XREVRANGE sortline:results:line-1 + -", {W, V, A}),
    "read results in a group": ("XREADGROUP GROUP g c STREAMS sortline:results:line-1 >", {R, A}),
    "let a line's results expire": ("EXPIRE sortline:results:line-1 1", {W, A}),
    "cut a line's results short": ("XTRIM sortline:results:line-1 MAXLEN 0", {A}),
    "find jobs of others": ("LINDEX rq:queue:live 0", {P, W, A}),
    "read one job's result": ("XREVRANGE rq:results:x + - COUNT 1", {P, W, A}),
    "forge a result": ("XADD sortline:results:line-1 * result x", {W, A}),
    "delete a line's results": ("DEL sortline:results:line-1", {W, A}),
    "list the lines": ("SMEMBERS sortline:lines", {W, V, R, A}),
    "list all keys": ("SCAN 0", {W, A}),
    "suspend all workers": ("SET rq:suspended 1", {A}),
    "tell a worker to end": ("PUBLISH rq:pubsub:w x", {A}),
    "listen to RQ's commands": ("SUBSCRIBE rq:pubsub:w", {W, A}),
    "read another program's key": ("GET other:key", set()),
    "write another program's key": ("SET other:key x", set()),
    "see the server's state": ("INFO", {W, A}),
    "read the server's own passwords": ("CONFIG GET requirepass", set()),
    "change the server's configuration": ("CONFIG SET dir /tmp", set()),
    "see what was denied": ("ACL LOG", {A}),
    "list users": ("ACL LIST", set()),
    "make a user": ("ACL SETUSER x on", set()),
    "delete all data": ("FLUSHALL", set()),
    "delete this database": ("FLUSHDB", set()),
    "list all keys at once": ("KEYS *", set()),
    "stop the server": ("SHUTDOWN", set()),
    "hold up the server": ("DEBUG SLEEP 9", set()),
    "read what others send": ("MONITOR", set()),
    "cut others off": ("CLIENT KILL ID 1", set()),
    "make it a replica": ("REPLICAOF host 1", set()),
    "load a module": ("MODULE LOAD x", set()),
    "move keys to another server": ("MIGRATE host 1 rq:job:x 0 9", set()),
    "overwrite a key with a dump": ("RESTORE rq:job:x 0 x", set()),
}


@pytest.fixture(scope="module", params=["Redis", "Valkey"])
def users(
    request: pytest.FixtureRequest, server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[redis.Redis]:
    """The administrator's client of a server that has a user for each role."""
    folder = tmp_path_factory.mktemp("users")
    if request.param == "Redis":
        (folder / "users.acl").write_text(users_file())
        with (
            debian_server(folder, "--aclfile", str(folder / "users.acl")),
            redis.Redis(unix_socket_path=str(folder / "socket")) as client,
        ):
            yield client
        return
    with redis.Redis.from_url(server_url) as client:
        for role in Role:
            client.execute_command("ACL", "SETUSER", role, "on", ">secret", *rules(role))
        yield client
        client.acl_deluser(*Role)


def users_file() -> str:
    lines = [user_line(role, name=role, password="secret") for role in Role]
    return "\n".join(["user default on nopass ~* &* +@all", *lines, ""])


def may(client: redis.Redis, role: Role, command: str) -> bool:
    """Whether the server would let the role run a command."""
    parts = command.split()
    if parts[0] == "EVAL":
        parts = ["EVAL", "return", "0"]
    return client.execute_command("ACL", "DRYRUN", role, *parts) == b"OK"


@pytest.mark.parametrize("deed", DEEDS)
def test_who_may_do_what(users: redis.Redis, deed: str) -> None:
    command, allowed = DEEDS[deed]
    assert {role for role in Role if may(users, role, command)} == allowed


def test_a_denied_command_is_refused_when_it_is_sent(users: redis.Redis) -> None:
    """Not only by ACL DRYRUN."""
    options = {name: users.connection_pool.connection_kwargs.get(name) for name in ("path", "host", "port")}
    for role in Role:
        where = (
            {"unix_socket_path": options["path"]}
            if options["path"]
            else {"host": options["host"], "port": options["port"]}
        )
        with redis.Redis(**where, username=role, password="secret") as client:
            assert client.ping()
            for command in ("FLUSHALL", "ACL LIST", "CONFIG SET dir /tmp", "GET other:key"):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command.split())


def test_the_page_shows_who_may_do_what() -> None:
    rows = [
        f"| {deed} | `{command.split()[0]}` | " + " | ".join("yes" if role in allowed else "" for role in Role) + " |"
        for deed, (command, allowed) in DEEDS.items()
    ]
    table = PAGE.read_text().partition("## Who may do what")[2].partition("\n## ")[0]
    assert [line for line in table.splitlines() if line.startswith("| ") and "`" in line] == rows


def test_the_page_shows_every_right() -> None:
    table = PAGE.read_text().partition("## The rights")[2].partition("\n## ")[0]
    assert [line for line in table.splitlines() if line.startswith("| ") and "`" in line] == list(rights_rows())


def rights_rows() -> Iterator[str]:
    for role in Role:
        for grant in rights_of(role).grants:
            cells = (_code(grant.commands.split()), _code(grant.read), _code(grant.write), _code(grant.both))
            yield f"| {role} | {' | '.join(cells)} |"


def _code(names: object) -> str:
    return " ".join(f"`{name}`".replace("|", "\\|") for name in names)  # type: ignore[attr-defined]


def test_a_producer_of_one_queue_reaches_no_other(client: redis.Redis) -> None:
    try:
        client.execute_command("ACL", "SETUSER", "u", "on", "nopass", *rules(Role.PRODUCER, ["live"]))
        for queue, allowed in (("live", True), ("bulk", False), ("live:intermediate", False), ("*", False)):
            for command in (
                f"RPUSH rq:queue:{queue} x",
                f"HSET sortline:flow:{queue} a 1",
                f"LTRIM sortline:bell:{queue} 0 1",
            ):
                assert may(client, "u", command) is allowed  # type: ignore[arg-type]
            assert may(client, "u", f"FCALL {SUBMIT} 1 rq:queue:{queue}") is allowed  # type: ignore[arg-type]
    finally:
        client.acl_deluser("u")


def test_rules_take_away_what_a_user_had(client: redis.Redis) -> None:
    try:
        client.execute_command("ACL", "SETUSER", "u", "on", "nopass", "~*", "&*", "+@all", "(+@all ~*)")
        client.execute_command("ACL", "SETUSER", "u", *rules(Role.VIEWER))
        assert not may(client, "u", "FLUSHALL")  # type: ignore[arg-type]
        assert not may(client, "u", f"GET {keys.image('x')}")  # type: ignore[arg-type]
    finally:
        client.acl_deluser("u")
