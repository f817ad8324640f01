"""The server's password apart from its URL: where it may come from, what is refused, and that children get it once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis

from shared.errors import BadSetting
from shared.masking import masked
from shared.secret_files import MAX_SECRET_BYTES
from shared.server.connection import check, connect
from shared.server.embedded import embedded_server
from shared.server.raw_connection import RawConnection
from shared.settings import NO_PASSWORD, environment, load_settings, server_variables
from tests.kit import run_python, without_privileges

ODD = "p/a:s@s?w#ö%2F r&d=[x]"


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SORTLINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{ODD}\n")
    return path


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_file_a_variable_and_the_settings_file_give_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_file = load_settings(redis_password_file=file).redis_url
    assert unquote(urlsplit(from_file).password or "") == ODD
    monkeypatch.setenv("SORTLINE_REDIS_PASSWORD_FILE", str(file))
    assert load_settings().redis_url == from_file
    monkeypatch.setenv("SORTLINE_REDIS_PASSWORD_FILE", "")  # as Compose passes on an unset variable
    assert load_settings().redis_url == "redis://127.0.0.1:6379/0"
    monkeypatch.setenv("SORTLINE_REDIS_PASSWORD", f"{ODD}\r\n")
    assert load_settings().redis_url == from_file
    monkeypatch.delenv("SORTLINE_REDIS_PASSWORD")
    monkeypatch.delenv("SORTLINE_REDIS_PASSWORD_FILE")
    Path("sortline.toml").write_text('redis_password_file = "password"\n')
    assert load_settings().redis_url == from_file


@pytest.mark.parametrize(
    ("url", "with_password"),
    [
        ("redis://host:6379/0", "redis://:pw%2F@host:6379/0"),
        ("redis://worker@host", "redis://worker:pw%2F@host"),
        ("redis://worker:@host", "redis://worker:pw%2F@host"),
        ("rediss://w%40x@host?ssl_cert_reqs=none", "rediss://w%40x:pw%2F@host?ssl_cert_reqs=none"),
        ("redis://host?username=worker", "redis://:pw%2F@host?username=worker"),
        ("unix:///run/redis.sock?db=1", "unix://:pw%2F@/run/redis.sock?db=1"),
        ("redis://[::1]:6379/0", "redis://:pw%2F@[::1]:6379/0"),
        ("host:6379", "host:6379"),  # refused later, with a message about its form
    ],
)
def test_the_user_of_the_url_stays(url: str, with_password: str) -> None:
    settings = load_settings(redis_url=url, redis_password="pw/")
    assert settings.redis_url == with_password


def test_the_user_is_shown_as_it_can_be_no_password() -> None:
    assert masked(load_settings(redis_url="redis://worker@h", redis_password="pw").redis_url) == "redis://worker:***@h"


@pytest.mark.parametrize("user", ["default", "worker"])
def test_every_kind_of_connection_logs_in(file: Path, user: str) -> None:
    with embedded_server() as url, redis.Redis.from_url(url) as admin:
        admin.acl_setuser(user, enabled=True, reset=True, passwords=[f"+{ODD}"], keys="*", commands=["+@all"])
        if user != "default":
            admin.acl_setuser("default", enabled=False)
        place = url.partition("://")[2]
        login = "" if user == "default" else f"{user}@"
        settings = load_settings(redis_url=f"redis://{login}{place}", redis_password_file=file)
        client = connect(settings.redis_url)
        check(client, settings.redis_url)
        assert client.acl_whoami() == user
        assert RawConnection(client).call("ACL", "WHOAMI") == user.encode()
        program = "from shared.settings import load_settings; from shared.server.connection import connect; "
        program += "print(connect(load_settings().redis_url).acl_whoami())"
        assert run_python(program, environment=environment(settings)).strip() == user


def test_children_get_it_once_whatever_is_set_beside(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sortline.toml").write_text('redis_password = "another"\n')
    monkeypatch.setenv("SORTLINE_REDIS_PASSWORD", "")
    monkeypatch.setenv("SORTLINE_REDIS_PASSWORD_FILE", str(file))
    settings = load_settings(redis_url="redis://worker@host")
    for variables in (environment(settings), server_variables(settings)):
        set_variables(monkeypatch, variables)
        child = load_settings()
        assert child.redis_url == settings.redis_url
        assert environment(child)["SORTLINE_REDIS_URL"] == settings.redis_url
    assert set(server_variables(settings)) == {
        "SORTLINE_REDIS_URL",
        "SORTLINE_REDIS_PASSWORD",
        "SORTLINE_REDIS_PASSWORD_FILE",
    }


def test_a_server_of_our_own_has_none(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_REDIS_PASSWORD_FILE", str(file))
    assert load_settings(redis_url="redis://127.0.0.1:1/0", **NO_PASSWORD).redis_url == "redis://127.0.0.1:1/0"


@pytest.mark.parametrize(
    "way", ["missing", "folder", "pipe", "device", "empty", "long", "lines", "not text", "no home"]
)
def test_files_that_cannot_be_used(way: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    match way:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "empty":
            path.write_text("\n")
        case "long":
            path.write_bytes(b"x" * (MAX_SECRET_BYTES + 1))
        case "lines":
            path.write_text("hunter2\nhunter3\n")
        case "not text":
            path.write_bytes(b"hunter2\xff")
        case "no home":
            path = Path("~nobody-of-this-name/secret")
    with pytest.raises(BadSetting, match=r"redis_password_file = .*secret'.*from flag") as caught:
        load_settings(redis_password_file=path)
    mends = {"missing": "No such file", "empty": "is empty", "long": "4,096 bytes", "lines": "one line"}
    mends |= {"not text": "UTF-8", "no home": "there is no user"}
    assert mends.get(way, "not a regular file" if way in ("pipe", "device") else "") in str(caught.value)
    assert "hunter" not in str(caught.value)


def test_a_file_that_this_user_may_not_read(file: Path) -> None:
    file.chmod(0)
    program = "from shared.settings import load_settings\ntry: load_settings()\nexcept Exception as error: print(error)"
    if os.geteuid() == 0:
        program = (
            f"import subprocess, sys; subprocess.run({without_privileges()!r} + [sys.executable, '-c', {program!r}])"
        )
    shown = run_python(program, environment={"SORTLINE_REDIS_PASSWORD_FILE": str(file)})
    assert "can't be read: Permission denied" in shown


@pytest.mark.parametrize(
    ("url", "password", "file_too", "named"),
    [
        ("redis://host", "hunter2", True, ("redis_password", "redis_password_file")),
        ("redis://:hunter2@host", "hunter2", False, ("redis_url", "redis_password")),
        ("redis://u:hun/ter2@host", None, True, ("redis_url", "redis_password_file")),
        ("redis://host?password=hunter2", None, True, ("redis_url", "redis_password_file")),
    ],
)
def test_only_one_may_have_a_password(
    url: str, password: str | None, file_too: bool, named: tuple[str, str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORTLINE_REDIS_URL", url)
    with pytest.raises(BadSetting, match=r"both hold the password.* unset") as caught:
        load_settings(redis_password=password, redis_password_file=file if file_too else None)
    origins = {"redis_url": "environment SORTLINE_REDIS_URL"}
    for name in named:
        assert f"{name} (from {origins.get(name, 'flag')})" in str(caught.value)
    assert "hun" not in str(caught.value)
    assert ODD not in str(caught.value)


@pytest.mark.parametrize("value", ['"hunter2\\nhunter3"', "42424242", '["hunter2"]', '"\\u0007hunter2"', '"\\n"'])
def test_a_refused_password_is_not_shown(value: str) -> None:
    Path("sortline.toml").write_text(f"redis_password = {value}\n")
    with pytest.raises(BadSetting, match=r"redis_password = '\*\*\*' \(from sortline\.toml\)") as caught:
        load_settings()
    assert "hunter" not in str(caught.value) + repr(caught.value.__cause__)
    assert "4242" not in str(caught.value) + repr(caught.value.__cause__)


def test_settings_do_not_show_it(file: Path) -> None:
    settings = load_settings(redis_url="redis://worker@host", redis_password="hunter2", model_store="s3://k:hunter2@b")
    for text in (repr(settings), str(settings), json.dumps(settings.model_dump(mode="json")["redis_password"])):
        assert "hunter2" not in text
    assert "redis://worker:***@host" in repr(settings)
