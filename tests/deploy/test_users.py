"""deploy/make-users.sh: the passwords and the ACL file that Compose mounts, and what a server makes of them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.ports import free_port
from shared.server.valkey import valkey_command
from tests.deploy.manifests import DEPLOY, read_compose
from tests.kit import PATIENCE_S, PROJECT, needed_tool, wait_until

ROLES = ("worker", "producer", "viewer", "reader", "admin")
USERS = (*ROLES, "health")
# `sortline acl` as the script sees it. The rules differ by role, so that the test can tell the users apart.
STUB = """#!/bin/sh
echo "$@" >>"$0.log"
digest=$(sha256sum <"$6" | cut -d ' ' -f 1)
echo "user $4 on #$digest resetkeys resetchannels -@all +ping ~$2:* +get"
"""
# `docker run … IMAGE acl ROLE --user NAME --password-file FILE`, as far as the script relies on it.
DOCKER = """#!/bin/sh
echo "$@" >>"$0.log"
mount=$(echo "$@" | sed 's/.*--volume \\([^:]*\\):.*/\\1/')
while [ "$1" != acl ]; do shift; done
exec {stub} "$1" "$2" "$3" "$4" "$5" "$mount"
"""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A copy of deploy/, with programs of its own before those of the system."""

    deploy: Path
    programs: Path

    @property
    def secrets(self) -> Path:
        return self.deploy / "secrets"

    def make_users(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.deploy / "make-users.sh"],
            env={"PATH": f"{self.programs}:/usr/bin:/bin"},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def add_program(self, name: str, text: str) -> Path:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def password(self, user: str) -> str:
        return (self.secrets / f"{user}.password").read_text()


def copied_into(path: Path) -> Folder:
    folder = Folder(deploy=path / "plant" / "deploy", programs=path / "programs")
    folder.deploy.mkdir(parents=True)
    folder.programs.mkdir()
    shutil.copy(DEPLOY / "make-users.sh", folder.deploy)
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> Folder:
    """Neither sortline nor docker is there."""
    return copied_into(tmp_path)


@pytest.fixture
def folder(bare: Folder) -> Folder:
    bare.add_program("sortline", STUB)
    return bare


def test_makes_what_compose_mounts(folder: Folder) -> None:
    done = folder.make_users()
    assert done.returncode == 0, done.stderr
    mounted = {secret["file"] for secret in read_compose()["secrets"].values()}
    assert {f"./secrets/{path.name}" for path in folder.secrets.iterdir()} == mounted


def test_every_container_can_read_the_files_and_nobody_else_can_enter_the_folder(folder: Folder) -> None:
    """Compose mounts each file alone; the user in the container is neither their owner nor in their group."""
    folder.secrets.mkdir(mode=0o755)
    assert folder.make_users().returncode == 0
    assert stat.S_IMODE(folder.secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.secrets.iterdir()} == {0o444}


def test_passwords_are_random_and_each_is_another(folder: Folder) -> None:
    folder.make_users()
    passwords = {folder.password(user) for user in USERS}
    assert len(passwords) == len(USERS)
    assert all(re.fullmatch("[0-9a-f]{64}", password) for password in passwords)


def test_keeps_passwords_and_renews_the_rules(folder: Folder) -> None:
    folder.make_users()
    passwords = {user: folder.password(user) for user in USERS}
    folder.add_program("sortline", STUB.replace("+get", "+get +set"))
    done = folder.make_users()
    assert done.returncode == 0, done.stderr
    assert {user: folder.password(user) for user in USERS} == passwords
    assert "~worker:* +get +set" in (folder.secrets / "users.acl").read_text()
    assert [line for line in done.stdout.splitlines() if line.startswith("kept")] == [
        f"kept  deploy/secrets/{user}.password" for user in USERS
    ]


def test_an_empty_password_and_a_deleted_one_are_made_anew(folder: Folder) -> None:
    """An empty file is left when the disk was full. An empty password would be no password."""
    folder.make_users()
    kept = folder.password("viewer")
    (folder.secrets / "admin.password").unlink()
    (folder.secrets / "worker.password").chmod(0o644)
    (folder.secrets / "worker.password").write_text("")
    done = folder.make_users()
    assert re.findall(r"made +deploy/secrets/(\w+)", done.stdout) == ["worker", "admin"]
    assert len(folder.password("worker")) == len(folder.password("admin")) == 64
    assert folder.password("viewer") == kept


def test_no_password_is_printed_or_an_argument_of_a_program(folder: Folder) -> None:
    done = folder.make_users()
    shown = done.stdout + done.stderr + (folder.programs / "sortline.log").read_text()
    assert [user for user in USERS if folder.password(user) in shown] == []


@pytest.mark.parametrize(
    ("stub", "said"),
    [
        ("#!/bin/sh\necho no such role >&2\nexit 2\n", "the rules of worker could not be made"),
        ("#!/bin/sh\necho resetkeys -@all\n", "printed no line for an ACL file, but: resetkeys -@all"),
    ],
)
def test_without_rules_the_acl_file_stays_as_it_is(folder: Folder, stub: str, said: str) -> None:
    folder.make_users()
    before = (folder.secrets / "users.acl").read_text()
    folder.add_program("sortline", stub)
    done = folder.make_users()
    assert done.returncode == 1
    assert said in done.stderr
    assert (folder.secrets / "users.acl").read_text() == before


def test_a_host_that_has_only_docker_asks_the_image(bare: Folder, tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    bare.add_program("docker", DOCKER.format(stub=stub))
    done = bare.make_users()
    assert done.returncode == 0, done.stderr
    assert {line.split()[1] for line in (bare.secrets / "users.acl").read_text().splitlines()} == {"default", *USERS}
    asked = (bare.programs / "docker.log").read_text().splitlines()
    assert len(asked) == len(ROLES)
    assert all("--network none" in line and " sortline:cpu acl " in line for line in asked)


def test_says_what_it_needs(bare: Folder) -> None:
    done = bare.make_users()
    assert done.returncode == 1
    assert "neither sortline nor docker is here" in done.stderr
    assert not (bare.secrets / "users.acl").exists()


def test_git_ignores_the_secrets() -> None:
    asked = subprocess.run(["git", "check-ignore", "deploy/secrets/admin.password"], cwd=PROJECT, check=False)
    assert asked.returncode == 0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that was started with Compose's options and the files of make-users.sh."""

    port: int
    folder: Folder

    def as_user(self, user: str | None, password: str | None = None) -> redis.Redis:
        """A client that has not connected yet. Without `password`, it has the user's own."""
        if user is not None and password is None:
            password = self.folder.password(user)
        return redis.Redis(port=self.port, username=user, password=password, retry=Retry(NoBackoff(), retries=0))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Compose's command for the server, on a free port of the loopback address."""
    folder = copied_into(tmp_path_factory.mktemp("server"))
    folder.add_program("sortline", STUB)
    assert folder.make_users().returncode == 0
    port = free_port()
    words = read_compose()["services"]["valkey"]["command"].replace('""', "").split(" ")[1:]
    acl_file = str(folder.secrets / "users.acl")
    options = [acl_file if word == "/run/secrets/users" else word for word in words]
    command = [*valkey_command(port=port, options={}), *options, "--dir", str(folder.programs.parent)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        found = Server(port=port, folder=folder)
        try:
            wait_until(lambda: process.poll() is not None or _answers(found), "the server answers")
            assert process.poll() is None
            yield found
        finally:
            process.terminate()


def _answers(server: Server) -> bool:
    try:
        return bool(server.as_user("health").ping())
    except redis.exceptions.RedisError:
        return False


def test_nobody_gets_in_without_a_password(server: Server) -> None:
    for user, password in ((None, None), ("default", ""), ("worker", "guessed"), ("health", ""), ("nobody", "x")):
        with pytest.raises((redis.exceptions.AuthenticationError, redis.exceptions.ResponseError)):
            server.as_user(user, password).ping()


def test_each_user_has_the_rights_of_its_role_and_no_others(server: Server) -> None:
    for role in ROLES:
        client = server.as_user(role)
        assert client.get(f"{role}:key") is None
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("another:key")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.flushall()


def test_the_health_check_can_do_nothing_but_ask(server: Server) -> None:
    client = server.as_user("health")
    for command in (("GET", "key"), ("INFO",), ("CLIENT", "LIST"), ("SUBSCRIBE", "all"), ("ACL", "LIST")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)


def test_the_health_check_tells_a_server_that_answers_from_none(server: Server) -> None:
    """Compose's own command, with Debian's client in place of the image's; both read REDISCLI_AUTH."""
    assert _health_check(server.folder, port=server.port) == 0
    assert _health_check(server.folder, port=free_port()) != 0


def test_the_health_check_fails_with_a_wrong_password(server: Server, folder: Folder) -> None:
    folder.make_users()
    assert _health_check(folder, port=server.port) != 0


def _health_check(folder: Folder, *, port: int) -> int:
    client = needed_tool("redis-cli", package="redis-tools")
    folder.add_program("valkey-cli", f'#!/bin/sh\nexec {client} -p {port} "$@"\n')
    kind, check = read_compose()["services"]["valkey"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    command = check.replace("$$", "$").replace("/run/secrets/health", str(folder.secrets / "health.password"))
    env = os.environ | {"PATH": f"{folder.programs}:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-c", command], env=env, capture_output=True, timeout=PATIENCE_S).returncode


def test_the_acl_file_holds_digests_and_no_passwords(folder: Folder) -> None:
    folder.make_users()
    text = (folder.secrets / "users.acl").read_text()
    for user in USERS:
        assert folder.password(user) not in text
        assert f"user {user} on #{hashlib.sha256(folder.password(user).encode()).hexdigest()} " in text
    assert text.splitlines()[0] == "user default off resetpass ~* &* +@all"


@pytest.mark.slow
def test_sortline_gives_the_rules(bare: Folder) -> None:
    """The command itself in place of the stub."""
    bare.add_program("sortline", f'#!/bin/sh\nPYTHONPATH={PROJECT} exec {sys.executable} -m sortline "$@"\n')
    done = bare.make_users()
    assert done.returncode == 0, done.stderr
    lines = (bare.secrets / "users.acl").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["default", *USERS]
    for line in lines[1:]:
        assert f"#{hashlib.sha256(bare.password(line.split()[1]).encode()).hexdigest()}" in line.split()
