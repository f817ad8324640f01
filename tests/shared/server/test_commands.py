"""`sortline acl` and `sortline functions`, as an administrator uses them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from shared.errors import BadSetting, NotFound, SortlineError
from shared.server import functions
from shared.server.roles import Role, rules
from sortline.cli import app
from tests.shared.server.servers import debian_server


def run(*arguments: str) -> str:
    """What a command prints; raises the error that `sortline` would print."""
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, SortlineError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("role", Role)
def test_a_role_is_one_line_of_rules(role: Role) -> None:
    assert run("acl", role) == " ".join(rules(role)) + "\n"


def test_the_printed_rules_make_a_user(client: redis.Redis) -> None:
    try:
        client.execute_command("ACL", "SETUSER", "camera", "on", ">secret", *run("acl", "producer").split())
        assert client.execute_command("ACL", "DRYRUN", "camera", "SET", "sortline:image:x", "y") == b"OK"
        assert client.execute_command("ACL", "DRYRUN", "camera", "GET", "sortline:image:x") != b"OK"
    finally:
        client.acl_deluser("camera")


@pytest.mark.slow
def test_a_line_of_an_acl_file_has_the_digest_and_not_the_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2 €\n")
    line = run("acl", "viewer", "--user", "wall", "--password-file", str(tmp_path / "password"))
    digest = hashlib.sha256("hunter2 €".encode()).hexdigest()
    assert line.startswith(f"user wall on #{digest} resetkeys") and "hunter2" not in line
    (tmp_path / "users.acl").write_text(f"user default off resetpass ~* &* +@all\n{line}")
    with debian_server(tmp_path, "--aclfile", str(tmp_path / "users.acl")):
        path = str(tmp_path / "socket")
        with redis.Redis(unix_socket_path=path, username="wall", password="hunter2 €") as wall:
            assert wall.smembers("sortline:lines") == set()
        with redis.Redis(unix_socket_path=path) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
            nobody.ping()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["boss"], "'boss' is not a role: use producer, worker, viewer, reader, admin"),
        (["worker", "--user", "w"], "--user and --password-file define a user together"),
        (["worker", "--password-file", "p"], "--user and --password-file define a user together"),
        (["worker", "--user", "a b", "--password-file", "p"], "--user = 'a b'"),
        (["worker", "--user", "default", "--password-file", "p"], "--user = 'default'"),
        (["worker", "--queues", "live"], "--queues is for producers"),
        (["producer", "--queues", "live,*"], "--queues = 'live,*'"),
        (["producer", "--queues", ","], "--queues = ','"),
        (["worker", "--user", "a\nuser x on nopass", "--password-file", "p"], "--user = "),
        (["worker", "--user", "w", "--password-file", "missing"], "missing"),
        (["worker", "--user", "w", "--password-file", "folder"], "folder"),
        (["worker", "--user", "w", "--password-file", "pipe"], "pipe"),
        (["worker", "--user", "w", "--password-file", "empty"], "empty"),
        (["worker", "--user", "w", "--password-file", "large"], "large"),
        (["worker", "--user", "w", "--password-file", "latin"], "latin"),
    ],
)
def test_what_can_not_be_used_is_named(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p").write_text("secret")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("empty").write_text("\n")
    Path("large").write_bytes(b"x" * 10_000)
    Path("latin").write_bytes(b"\xe4\xf6")
    with pytest.raises(BadSetting) as refused:
        run("acl", *arguments)
    assert named in str(refused.value)


def test_functions_are_loaded_listed_and_deleted(client: redis.Redis, redis_url: str) -> None:
    client.function_flush()
    version = functions.version()
    here = ("--redis-url", redis_url)
    assert "none of Sortline's functions" in run("functions", "list", *here)
    assert run("functions", "load", *here) == f"The functions of version {version} are loaded.\n"
    assert run("functions", "load", *here) == f"The functions of version {version} were loaded before.\n"
    client.function_load(functions.library().replace(version, "0123456789ab"))
    assert sorted(run("functions", "list", *here).splitlines()) == sorted(["0123456789ab", f"{version}  this release"])
    assert run("functions", "delete", "0123456789ab", *here) == "The functions of version 0123456789ab are deleted.\n"
    with pytest.raises(NotFound, match=f"no functions of version '0123456789ab'; it has: {version}"):
        run("functions", "delete", "0123456789ab", *here)


def test_a_server_without_functions_is_named(tmp_path: Path) -> None:
    with (
        debian_server(tmp_path, "--rename-command", "FUNCTION", ""),
        pytest.raises(BadSetting, match="knows no functions"),
    ):
        run("functions", "load", "--redis-url", f"unix://{tmp_path}/socket?db=0")
