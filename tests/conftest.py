"""Fixtures that every test may use: a real Valkey server, emptied before each test that asks for it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from shared.cpu_cores import usable_cores
from shared.server.embedded import embedded_server
from shared.settings import Settings
from tests.model_store.tiny_bundle import TINY_MODELS
from tests.shared_folders import run_folder

# The marks of slow tests; pyproject.toml says what they mean.
SLOW = ("training", "e2e", "bench", "slow")

# No example fails for being slow: on a busy machine a few lines may take the 200 ms that Hypothesis allows by default.
hypothesis.settings.register_profile(
    "unhurried",
    hypothesis.settings(),  # which knows whether this is CI
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist nobody asks
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for processes and servers."""
    return usable_cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with slow tests first, so that no process is left with one at the end. Those that run alone last."""
    slow = {item.path for item in items if any(item.get_closest_marker(name) for name in SLOW)}
    alone = {item.path for item in items if item.get_closest_marker("timing")}
    items.sort(key=lambda item: (item.path in alone, item.path not in slow))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that every running test locks: shared, or exclusively if it is marked `timing`."""
    return run_folder(tmp_path_factory) / "running"


@pytest.fixture(autouse=True)
def _alone_if_it_measures_time(request: pytest.FixtureRequest, running: Path) -> Iterator[None]:
    alone = request.node.get_closest_marker("timing") is not None
    with running.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@pytest.fixture(autouse=True)
def _logging_as_found() -> Iterator[None]:
    """Restores logging: a command in this process sets it up for its own standard error, which is gone afterwards."""
    root = logging.getLogger()
    level = root.level
    before = list(root.handlers)
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of one embedded server for the whole session."""
    with embedded_server() as url:
        yield url


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with `tiny` (multi) and `tiny-single`, a copy of the one that is checked in. Don't write to it."""
    return Path(shutil.copytree(TINY_MODELS, tmp_path_factory.mktemp("models"), dirs_exist_ok=True))


@pytest.fixture
def redis_url(server_url: str) -> str:
    """URL of the server, with nothing in it."""
    with redis.Redis.from_url(server_url) as client:
        client.flushall()
    return server_url


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the emptied server."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def settings(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of the emptied server, untouched by the environment or a sortline.toml."""
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return Settings(
        redis_url=redis_url,
        model_store=str(tmp_path / "models"),
        cache_dir=tmp_path / "cache",
        state_dir=tmp_path / "state",
        metrics_port=0,
    )


@pytest.fixture
def pause() -> Iterator[Callable[[int], None]]:
    """A function that makes a process hang, as a disk does. SIGCONT makes it go on; it ends with the test."""
    paused: list[int] = []

    def pause(pid: int) -> None:
        paused.append(pid)
        os.kill(pid, signal.SIGSTOP)

    yield pause
    for pid in paused:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
