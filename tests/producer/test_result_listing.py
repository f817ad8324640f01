"""What `sortline results` says about the names of lines and lanes that no result has."""

from __future__ import annotations

import pytest
import redis

from producer.result_filter import ResultFilter
from producer.result_listing import describe_unknown_lanes, list_results
from producer.streams.reader import ResultReader
from shared.settings import Settings
from tests.producer.kit import publish, sort_result

LINES = "no line 'linne-1' has results yet; lines with results: line-1, line-2."


@pytest.fixture
def results(client: redis.Redis) -> None:
    for number, lane in enumerate(("reject", "clear", "clear")):
        result = sort_result(f"j{number}", line=f"line-{1 + number % 2}")
        publish(client, result.model_copy(update={"lane": lane}))


def hint(settings: Settings, line: str | None, *lanes: str) -> str | None:
    return describe_unknown_lanes(settings, line=line, lanes=frozenset(lanes))


@pytest.mark.usefixtures("results")
def test_misspelled_lanes_are_told_from_those_that_exist(settings: Settings) -> None:
    assert hint(settings, None, "nocap", "clear", "rejct") == (
        "no recent result has lane 'nocap', 'rejct'; lanes of recent results: clear, reject."
    )
    assert hint(settings, "line-2", "reject") == "no recent result has lane 'reject'; lanes of recent results: clear."
    assert hint(settings, "line-1", "clear") is hint(settings, None) is None


def test_without_results_or_server_nothing_is_said(settings: Settings) -> None:
    assert hint(settings, "line-1", "clear") is None
    assert hint(Settings(redis_url="redis://127.0.0.1:1/0"), "line-1", "clear") is None


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("follow", [False, True])
def test_a_misspelled_line_is_named_also_when_results_are_followed(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, follow: bool
) -> None:
    monkeypatch.setattr(ResultReader, "follow", lambda reader, *_, **__: iter(reader.last(0)))
    wanted = ResultFilter()
    list_results(settings, line="linne-1", wanted=wanted, count=20, follow=follow, as_json=False, as_csv=False)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"{LINES}\n"
