"""The keys, fields and numbers that the scripts spell out are the same as in Python.

An expression like `'rq:worker:' .. worker .. ':executions'` is compared as `rq:worker:{}:executions`, which is what
`keys.rq_worker_executions("{}")` gives. A key that is new or changed in a script or in shared/keys.py fails here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib.resources import files

import pytest

from producer import queue_writer
from shared import arrivals, keys
from shared.jobs import (
    BYTES_FIELD,
    CLOCK_OFFSET_FIELD,
    DEADLINE_FIELD,
    LINE_FIELD,
    MAX_ATTEMPTS,
    MAX_ATTEMPTS_FIELD,
    MAX_CRASHES,
    MAX_HASH_BYTES,
    MAX_ID_BYTES,
    MAX_LOSSES,
)
from tests.kit import ASCII_LOCALE, run_python
from worker.observe.queue_forecast import FRESH_S
from worker.rq import scripts
from worker.steps.admit import MAX_CALL_BYTES

IMAGE, RESULTS, WAKEUP = keys.image("{}"), keys.results("{}"), keys.wakeup("{}")
QUEUE, JOB, WIP = keys.rq_queue("{}"), keys.rq_job("{}"), keys.rq_wip("{}")
EXECUTION, EXECUTIONS = keys.rq_execution("{}", "{}"), keys.rq_executions("{}")
WORKER, WORKER_EXECUTIONS = keys.rq_worker("{}"), keys.rq_worker_executions("{}")
FAILED, JOB_RESULTS = keys.rq_failed("{}"), keys.rq_results("{}")
SUSPECTS, DEATHS = keys.suspects("{}"), {keys.CRASHES, keys.LOSSES, keys.SUSPECT}

# Our fields of a job's hash that shared/jobs.py names.
JOB_FIELDS = {MAX_ATTEMPTS_FIELD, DEADLINE_FIELD, CLOCK_OFFSET_FIELD, LINE_FIELD, BYTES_FIELD}
PRODUCERS = {"admission", "ask", "submit"}

# The keys and fields that each script spells out itself, to read or to write them.
SPELLED = {
    "claim": {IMAGE, WAKEUP, QUEUE, JOB, SUSPECTS, EXECUTIONS, keys.SET_APART, keys.RQ_SUSPENDED},
    "common": {
        *(WAKEUP, QUEUE, JOB, WIP, EXECUTION, EXECUTIONS, WORKER_EXECUTIONS),
        *(keys.NEVER_WRITTEN, keys.broken("{}"), SUSPECTS, *DEATHS, *JOB_FIELDS, keys.SET_APART, IMAGE),
    },
    "finish": {
        *(IMAGE, RESULTS, JOB, WIP, WORKER, FAILED, JOB_RESULTS),
        *(
            keys.load("{}"),
            keys.rq_finished("{}"),
            keys.kept_image("{}", "{}"),
            keys.LINES,
            keys.LAST_FINISH,
            *DEATHS,
            BYTES_FIELD,
        ),
    },
    "reap": {
        *(JOB, WIP, EXECUTION, EXECUTIONS, FAILED, JOB_RESULTS),
        *(keys.processes("{}", "{}"), keys.RECOVERED, keys.SET_APART, *DEATHS),
    },
    "release": set(),
    "renew": {JOB, WIP, EXECUTION, EXECUTIONS, WORKER_EXECUTIONS},
    "sweep": {
        *(QUEUE, JOB, WIP, EXECUTIONS, IMAGE, keys.RQ_SUSPENDED, keys.RECOVERED),
        *(keys.rq_registry("{}", "{}"), keys.rq_intermediate_queue("{}"), SUSPECTS),
    },
    "report_capacity": {keys.capacities("{}"), keys.flow("{}"), keys.load("{}"), QUEUE},
    # These get their keys as arguments.
    "admission": {keys.NEVER_WRITTEN},
    "ask": set(),
    "submit": {BYTES_FIELD, DEADLINE_FIELD},
}
# Keys of shared/keys.py that no script spells out: only Python uses them, or scripts get them as arguments.
NOT_SPELLED = {keys.shadow("{}"), keys.RQ_QUEUES, keys.RQ_WORKERS, keys.rq_queue_workers("{}")}
# Functions of shared/keys.py with parameters that aren't strings; no script spells their keys out either.
NOT_BY_TEXTS = {"canary", "sweep", "missing"}

_LITERAL = r"'[^'\n]*'"
_NAME = r"[A-Za-z_][\w.]*(?:\[[^\]]*\])?"
_EXPRESSION = re.compile(rf"(?:{_LITERAL}|{_NAME})(?: \.\. (?:{_LITERAL}|{_NAME}))*")
_LOCAL = re.compile(rf"^ *local (\w+) = ({_EXPRESSION.pattern})$", re.MULTILINE)
_COMMENT = re.compile(r"--.*")


def lua(name: str) -> str:
    """A script's text without its comments."""
    folder = files("shared.server.functions") if name in PRODUCERS else files(scripts.__name__)
    return _COMMENT.sub("", folder.joinpath(f"{name}.lua").read_text(encoding="utf-8"))


def pattern(expression: str, key_locals: dict[str, str]) -> str:
    """A Lua expression as text, with `{}` for each value known only at run time. `composite` is `<job>:<execution>`."""
    components = expression.split(" .. ")
    components[0] = key_locals.get(components[0], components[0])
    text = "".join(
        part[1:-1] if part.startswith("'") else "{}:{}" if part.startswith("composite") else "{}" if i else part
        for i, part in enumerate(components)
    )
    return text.removesuffix("*") + "{}" if text.endswith((":", ":*")) else text


def spelled(text: str) -> Iterator[str]:
    """The patterns of all keys, and of Sortline's own fields in RQ's hashes, in a script without comments."""
    key_locals = {name: f"'{pattern(expression, {})}'" for name, expression in _LOCAL.findall(text)}
    key_locals = {name: key for name, key in key_locals.items() if key.startswith(("'rq:", "'sortline"))}
    for expression in _EXPRESSION.findall(text):
        if expression in key_locals:  # counted where the local is set
            continue
        found = pattern(expression, key_locals)
        if found.startswith(("rq:", "sortline")):
            yield found


def python_keys() -> set[str]:
    """All keys of shared/keys.py: its constants, and the results of its functions for `{}` in every parameter."""
    found = {value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}
    for name, function in inspect.getmembers(keys, inspect.isfunction):
        if name not in NOT_BY_TEXTS:
            found.add(function(*["{}"] * len(inspect.signature(function).parameters)))
    return found


def test_every_script_is_compared() -> None:
    names = [
        path.name for package in (scripts.__name__, "shared.server.functions") for path in files(package).iterdir()
    ]
    assert {name.removesuffix(".lua") for name in names if name.endswith(".lua")} == set(SPELLED)


@pytest.mark.parametrize("name", SPELLED)
def test_a_script_spells_the_keys_as_python_does(name: str) -> None:
    assert set(spelled(lua(name))) == SPELLED[name]


def test_every_key_of_python_is_compared_or_named_here() -> None:
    assert python_keys() == (set().union(*SPELLED.values()) | NOT_SPELLED) - JOB_FIELDS


@pytest.mark.parametrize("name", SPELLED)
def test_no_literal_of_a_key_escapes_the_comparison(name: str) -> None:
    """However a key is quoted, each place where one begins, or continues the local `list`, must give a pattern."""
    begun = re.findall(r"""['"\[](?:rq:|sortline)|\blist \.\. """, lua(name))
    assert len(list(spelled(lua(name)))) == len(begun)


def test_the_comparison_notices_a_difference() -> None:
    assert list(spelled("redis.call('DEL', 'rq:wip:' .. q, 'sortline:new', 'rq:worker:' .. w .. ':executions')")) == [
        "rq:wip:{}",
        "sortline:new",
        "rq:worker:{}:executions",
    ]
    assert list(spelled("local list = 'rq:queue:' .. q\nfor key in { list, list .. ':x' } do end")) == [
        "rq:queue:{}",
        "rq:queue:{}:x",
    ]


@pytest.mark.parametrize(
    ("script", "local", "number"),
    [
        ("common", "BROKEN_KEPT_S", keys.BROKEN_TTL_S),
        ("common", "MAX_RETRIES", MAX_ATTEMPTS - 1),
        ("common", "MAX_DATA_BYTES", MAX_CALL_BYTES),
        ("common", "MAX_ID_BYTES", MAX_ID_BYTES),
        ("common", "MAX_HASH_BYTES", MAX_HASH_BYTES),
        ("reap", "MAX_CRASHES", MAX_CRASHES),
        ("reap", "MAX_COUNT", MAX_LOSSES),
        ("finish", "STREAM_TTL_S", keys.STREAM_TTL_S),
        ("finish", "KEPT_IMAGE_S", keys.KEPT_IMAGE_S),
        ("report_capacity", "FRESH_S", int(FRESH_S)),
    ],
)
def test_numbers_are_the_same_on_both_sides(script: str, local: str, number: int) -> None:
    found = re.search(rf"^local {local} = (\d+)", lua(script), re.MULTILINE)
    assert found is not None and int(found[1]) == number


def test_producers_and_workers_agree_on_the_rates_of_a_queue() -> None:
    assert f"local DECAY_S = {arrivals.DECAY_S:g}\n" in lua("admission")
    assert f"local RECENT_S = {FRESH_S:g}\n" in lua("admission")


def test_the_wakeup_list_is_as_long_on_both_sides() -> None:
    assert f"redis_call('LTRIM', wakeup, 0, {queue_writer.WAKEUP_TOKENS - 1})" in lua("common")


def test_scripts_are_read_in_any_locale() -> None:
    program = "from worker.rq import scripts; print(ascii(scripts.source('claim')))"
    assert run_python(program, environment=ASCII_LOCALE).strip() == ascii(scripts.source("claim"))
