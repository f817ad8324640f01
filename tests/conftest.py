"""Fixtures that every test may use: a real Valkey server, emptied before each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shared.embedded import embedded_server
from shared.settings import Settings

BOTTLES = Path(__file__).parent.parent / "producer" / "bottles"


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of one embedded server for the whole session."""
    with embedded_server() as url:
        yield url


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
    return Settings(redis_url=redis_url, model_store=str(tmp_path / "models"), cache_dir=tmp_path / "cache", metrics_port=0)
