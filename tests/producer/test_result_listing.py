"""What `sortline results` says about the names of lines and lanes that no result has."""

from __future__ import annotations

import pytest
import redis

from producer.result_filter import ResultFilter
from producer.result_listing import list_results, unknown_names
from shared.settings import Settings
from tests.producer.kit import publish, sort_result

LINES = "no line 'linne-1' has results; lines with results: line-1, line-2."


@pytest.fixture
def results(client: redis.Redis) -> None:
    for number, lane in enumerate(("reject", "clear", "clear")):
        result = sort_result(f"j{number}", line=f"line-{1 + number % 2}")
        publish(client, result.model_copy(update={"lane": lane}))


def hints(settings: Settings, line: str | None, *lanes: str) -> list[str]:
    return unknown_names(settings, line=line, lanes=frozenset(lanes))


@pytest.mark.usefixtures("results")
def test_misspelled_names_are_told_from_those_that_exist(settings: Settings) -> None:
    assert hints(settings, "linne-1") == [LINES]
    assert hints(settings, None, "nocap", "clear", "rejct") == [
        "no recent result has lane 'nocap', 'rejct'; lanes of recent results: clear, reject."
    ]
    assert hints(settings, "line-2", "reject") == [
        "no recent result has lane 'reject'; lanes of recent results: clear."
    ]
    assert hints(settings, "linne-1", "clear") == [LINES]
    assert hints(settings, "line-1", "clear") == hints(settings, None) == []


def test_without_results_or_server_nothing_is_said(client: redis.Redis, settings: Settings) -> None:
    assert hints(settings, "line-1", "clear") == []
    assert hints(Settings(redis_url="redis://127.0.0.1:1/0"), "line-1") == []


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("follow", [False, True])
def test_a_misspelled_line_is_named_also_when_results_are_followed(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, follow: bool
) -> None:
    monkeypatch.setattr("producer.result_listing.ResultReader.follow", lambda *_, **__: iter(()))
    wanted = ResultFilter()
    list_results(settings, line="linne-1", wanted=wanted, count=20, follow=follow, as_json=False, as_csv=False)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == ("" if follow else "no results of line linne-1 yet.\n") + f"{LINES}\n"
