"""What readers need of a server: the rights that docs/ejector.md lists, and a URL that fits it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from producer.streams.group_reader import ResultGroupReader
from producer.streams.notices import NoticeKind
from producer.streams.reader import ResultReader
from shared import keys
from shared.errors import BadSetting
from shared.server import roles
from shared.settings import Settings
from tests.kit import PROJECT
from tests.producer.streams.kit import fill, once_a_reader_waits, patient_stop

USERS = re.findall(r"^ +sortline acl (\w+) --user (\w+) ", (PROJECT / "docs/ejector.md").read_text(), re.MULTILINE)
READERS: dict[str, Callable[..., ResultReader | ResultGroupReader]] = {
    "ejector": ResultReader,
    "ejectors": lambda settings, **options: ResultGroupReader(settings, line="a", group="g", **options),
}


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    with patient_stop() as stop:
        yield stop


@pytest.mark.parametrize(("role", "user"), USERS)
def test_they_can_read_and_go_on_when_the_stream_is_lost(
    client: redis.Redis, settings: Settings, stop: threading.Event, role: str, user: str
) -> None:
    def on_notice(notice: object) -> None:
        kinds.append(getattr(notice, "kind", None))

    kinds: list[object] = []
    client.execute_command("ACL", "SETUSER", user, "on", ">PASSWORD", *roles.rules(roles.Role(role)))
    try:
        url = settings.redis_url.replace("redis://", f"redis://{user}:PASSWORD@")
        fill(client, 1)
        reader = READERS[user](settings.model_copy(update={"redis_url": url}), on_notice=on_notice)
        results = reader.follow(stop)
        with once_a_reader_waits(client, lambda: fill(client, 2)):
            assert next(results).frame_id == 2
        client.delete(keys.results("a"))
        fill(client, 3)
        assert next(results).frame_id == 3
    finally:
        client.execute_command("ACL", "DELUSER", user)
    assert set(kinds) <= {NoticeKind.NEW_GROUP, NoticeKind.BEGAN_ANEW}
    assert len(USERS) == len(READERS)


@pytest.mark.parametrize("user", READERS)
def test_a_server_that_waiting_does_not_change_ends_them(
    settings: Settings, stop: threading.Event, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """A port without TLS gives no answer at all, so a reader would wait for it."""
    monkeypatch.setattr("shared.server.connection._CHECK_TIMEOUT_S", 0.2)
    wrong = settings.model_copy(update={"redis_url": settings.redis_url.replace("redis://", "rediss://")})
    with pytest.raises(BadSetting, match="does not speak TLS"):
        next(READERS[user](wrong).follow(stop))
