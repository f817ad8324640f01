"""Entries that somebody has forged: readers skip and count what can't be shown, and go on."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
import redis

from producer.streams.notices import Notice
from producer.streams.reader import ResultReader
from producer.streams.result_parsing import parse_result, validate_result
from shared import keys
from shared.settings import Settings
from tests.producer.command_kit import run
from tests.producer.kit import publish, sort_result

FIELDS = sort_result("j1").model_dump(mode="json")
HOSTILE = "=\x1b]0;owned\x07\r\n\x9b2J\u202e[red]"
NO_RESULTS: list[dict[str, Any]] = [
    {"finished_at": 1e300},
    {"finished_at": -1e300},
    {"finished_at": float("nan")},
    {"finished_at": float("inf")},
    {"captured_at": float("nan")},
    {"deadline_margin_ms": float("inf")},
    {"labels": [{"label": "a", "probability": float("nan")}]},
    {"timings_ms": {"total": float("inf")}},
    {"outcome": "no\noutcome"},
    {"frame_id": {"a": 1}},
]


@pytest.mark.parametrize("change", NO_RESULTS)
def test_what_cannot_be_shown_is_no_result(change: dict[str, Any]) -> None:
    fields = FIELDS | change
    with pytest.raises(ValueError, match=next(iter(change))):
        parse_result(json.dumps(fields).encode())
    with pytest.raises(ValueError, match=next(iter(change))):
        validate_result(fields)


def test_a_result_that_a_worker_wrote_passes() -> None:
    assert parse_result(json.dumps(FIELDS).encode()) == validate_result(FIELDS) == sort_result("j1")
    assert parse_result(json.dumps(FIELDS | {"captured_at": 1e300}).encode()).captured_at == 1e300  # such is rejected


def forge(client: redis.Redis, *texts: str | bytes) -> None:
    for text in texts:
        client.xadd(keys.results("line-1"), {"result": text})


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_the_results_around_forged_entries_are_shown_and_those_are_counted(
    client: redis.Redis, settings: Settings, form: list[str]
) -> None:
    publish(client, sort_result("j1"))
    forge(client, *(json.dumps(FIELDS | change) for change in NO_RESULTS), "[" * 100_000, b"\xff\xfe", '"\\ud800"', "")
    client.xadd(keys.results("line-1"), {"other": "field"})
    hostile = sort_result("j2").model_copy(update=dict.fromkeys(("camera", "frame_id", "lane", "error"), HOSTILE))
    publish(client, hostile)
    done = run("results", "--redis-url", settings.redis_url, *form)
    assert done.exit_code == 0, done.output
    assert all(character.isprintable() or character == "\n" for character in done.output)
    assert "15 entries were skipped" in done.stderr
    if form == ["--json"]:
        shown = [json.loads(line) for line in done.stdout.splitlines()]
        assert [each["job_id"] for each in shown] == ["j1", "j2"]
        assert shown[1]["error"] == HOSTILE
    elif form == ["--csv"]:
        first, second = csv.DictReader(io.StringIO(done.stdout))
        assert (first["job_id"], second["job_id"], second["lane"]) == (
            "j1",
            "j2",
            r"'=\x1b]0;owned\x07\r\n\x9b2J\u202e[red]",
        )
    else:
        assert len(done.stdout.splitlines()) == 3  # the header and two results


def test_a_long_text_widens_no_column(client: redis.Redis, settings: Settings) -> None:
    long = dict.fromkeys(("camera", "frame_id", "lane", "error"), "x" * 5_000_000)
    publish(client, sort_result("j1").model_copy(update=long))
    publish(client, sort_result("j2"))
    lines = run("results", "--redis-url", settings.redis_url).stdout.splitlines()
    assert max(map(len, lines)) < 7_000
    assert len(lines[-1]) < 1_200


def test_skipped_entries_are_reported_at_the_first_and_each_tenfold(client: redis.Redis, settings: Settings) -> None:
    publish(client, sort_result("j1"))
    forge(client, *["{}"] * 120)
    notices: list[Notice] = []
    with ResultReader(settings, on_notice=notices.append) as reader:
        assert len(reader.last(200)) == 1
        assert reader.skipped == 120
    assert [notice.text.rpartition("skipped.")[2] for notice in notices] == [
        "",
        " 10 were skipped so far.",
        " 100 were skipped so far.",
    ]
