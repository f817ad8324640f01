"""A user whose Redis server refuses gets one clear line from `camera`, `upload`, `results` and `models`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

import sortline.cli
from model_store.registry.canary import Canary
from model_store.registry.store import ModelStore
from shared import keys
from shared.ports import free_port
from shared.server.embedded import embedded_server
from shared.settings import Settings
from tests.e2e.kit import running
from tests.kit import BOTTLES, PATIENCE_S, wait_until
from tests.model_store.tiny_bundle import copy_build
from tests.producer.kit import publish, sort_result
from torture.server.states import configured, unable_to_save

pytestmark = pytest.mark.e2e

PICTURE = str(BOTTLES / "bottles_000.jpg")
CAMERA = ("camera", "--line", "l", "--source", "simulated", "--count", "1", "--pool", "1")
UPLOAD = ("upload", PICTURE, "--wait", "--timeout", "0.5")
RESULTS = ("results",)
CANARY = ("models", "canary", "tiny")


class Answer(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    errors: str


class User:
    """Runs commands as a user does, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def runs(self, command: Sequence[str], redis_url: str) -> Answer:
        self._monkeypatch.setenv("SORTLINE_REDIS_URL", redis_url)
        self._monkeypatch.setattr(sys, "argv", ["sortline", *command])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            sortline.cli.main()
        out, errors = self._capsys.readouterr()
        return Answer(int(ended.value.code or 0), out, errors)


@pytest.fixture
def user(
    settings: Settings, tiny_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> User:
    """A user with a model `tiny` that has a canary."""
    store = ModelStore(Path(shutil.copytree(tiny_models, settings.model_store_dir)))
    store.publish("tiny", copy_build(store.resolve("tiny@1")))
    store.set_canary("tiny", Canary(version=1, share=0.5))
    monkeypatch.setenv("SORTLINE_MODEL_STORE", settings.model_store)
    return User(monkeypatch, capsys)


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    with embedded_server(cluster_enabled="yes", cluster_port=str(free_port())) as url:
        with redis.Redis.from_url(url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        yield url


def assert_refused(answer: Answer, says: str) -> None:
    """Refused at once, not retried. The last line says why, and what to do."""
    assert answer.code == 2, answer
    *_, line = answer.errors.splitlines()
    assert line.startswith("sortline: ")
    assert says in line
    assert "Traceback" not in answer.errors


@pytest.mark.parametrize("command", [CAMERA, UPLOAD, RESULTS])
def test_what_a_person_must_fix(
    user: User, client: redis.Redis, redis_url: str, cluster_url: str, command: Sequence[str]
) -> None:
    assert_refused(user.runs(command, cluster_url), "is in cluster mode, which neither Sortline nor RQ supports")
    assert_refused(user.runs(command, redis_url.removesuffix("/0") + "/99"), "has no such database")
    with configured(client, "requirepass", "right"):
        assert_refused(user.runs(command, redis_url), "refuses the login")
        assert_refused(user.runs(command, redis_url.replace("redis://", "redis://:wrong@")), "refuses the login")


@pytest.mark.parametrize("command", [CAMERA, UPLOAD, RESULTS])
def test_tls_to_a_port_without_it(user: User, redis_url: str, command: Sequence[str]) -> None:
    answer = user.runs(command, redis_url.replace("redis://", "rediss://"))
    assert_refused(answer, "does not speak TLS. Write redis:// instead of rediss://")


def test_rights_that_a_user_lacks(user: User, client: redis.Redis, redis_url: str) -> None:
    """A user who may only read can see results. Otherwise the message names the missing rights."""
    publish(client, sort_result("j1"))
    theirs = redis_url.replace("://", "://reader:x@")
    client.execute_command("ACL", "SETUSER", "reader", "reset", "on", "nopass", "~*", "+@read", "+@connection")
    try:
        for command in (CAMERA, UPLOAD):
            assert_refused(user.runs(command, theirs), "does not let this user do that (NOPERM)")
        assert user.runs(RESULTS, theirs).code == 0
        assert user.runs(CANARY, theirs).code == 0
        client.execute_command("ACL", "SETUSER", "reader", "reset", "on", "nopass", "~other:*", "+@all")
        for command in (CAMERA, UPLOAD, RESULTS):
            assert_refused(user.runs(command, theirs), "`sortline acl ROLE` prints the rights")
    finally:
        client.acl_deluser("reader")


def test_a_server_that_cant_save(user: User, client: redis.Redis, redis_url: str) -> None:
    """An upload waits, and says why. `results` ends, because the server refuses even PING."""
    with unable_to_save(client):
        uploaded = user.runs(UPLOAD, redis_url)
        assert uploaded.code == 1
        assert "can't save its data to disk (MISCONF)" in uploaded.errors
        assert "can't save its data to disk (MISCONF)" in uploaded.out, "the row of the file says it, too"
        refused = user.runs(RESULTS, redis_url)
        assert refused.code == 1
        assert "(MISCONF)" in refused.errors


def test_a_camera_at_a_server_that_cant_save(client: redis.Redis, settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "camera.log"
    with ExitStack() as refusal:
        refusal.enter_context(unable_to_save(client))
        with running("sortline", *CAMERA, "--json", settings=settings, log=log) as camera:
            wait_until(lambda: "(MISCONF)" in log.read_text(), "it waits, and says why", log=log)
            refusal.close()
            assert camera.wait(PATIENCE_S) == 0
    assert '"accepted": 1' in log.read_text()
    assert client.llen(keys.rq_queue("live")) == 1


def test_models_need_no_server(user: User, cluster_url: str) -> None:
    """Only the counts of a canary are on the server. If they can't be read, the command says why."""
    absent_url = "redis://127.0.0.1:1/0"
    for url in (cluster_url, absent_url):
        assert user.runs(("models", "list"), url).errors == ""
        shown = user.runs(CANARY, url)
        assert shown.code == 0
        assert "tiny@1 takes 50.0% of the images" in shown.out
    errors = user.runs(CANARY, absent_url).errors
    assert "the number of compared images can't be read: no Redis server answers" in errors
