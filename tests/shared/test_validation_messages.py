"""What is wrong with a value, in plain words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shared.schemas import NAME_RULE, Name
from shared.settings import Settings
from shared.validation_messages import describe_problem, describe_problems


class Example(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: int = 1
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    least: Annotated[int, Field(ge=1, lt=10)] = 1
    is_on: bool = True
    color: Literal["red", "green"] = "red"
    names: list[str] = []
    table: dict[str, int] = {}
    word: Annotated[str, Field(pattern="^a")] = "a"
    line: Name = "line-1"
    lane: Annotated[str, Field(min_length=1, max_length=3)] = "red"
    pair: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] = ("a", "b")

    @field_validator("color")
    @classmethod
    def _not_green(cls, value: str) -> str:
        if value == "green":
            raise ValueError("'green' is sold out")
        return value


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("count", "many", "should be a whole number"),
        ("count", 1.5, "should be a whole number"),
        ("share", "half", "should be a number"),
        ("share", 0, "should be above 0"),
        ("share", 2, "should be at most 1"),
        ("least", 0, "should be at least 1"),
        ("least", 10, "should be below 10"),
        ("is_on", "perhaps", "should be true or false"),
        ("color", "blue", "should be 'red' or 'green'"),
        ("color", "green", "'green' is sold out"),
        ("names", 1, "should be a list"),
        ("names", [1], "should be text"),
        ("table", [], "should be a table of names and values"),
        ("tone", "red", "is not a known name"),
        ("word", "b", "should match the pattern ^a"),
        ("line", "a b", NAME_RULE),
        ("lane", "", "should have 1 or more characters"),
        ("lane", "manual", "should have 3 or fewer characters"),
        ("pair", ["a"], "should have 2 or more entries"),
        ("pair", ["a", "b", "c"], "should have 2 or fewer entries"),
    ],
)
def test_problems_are_told_in_plain_words(name: str, value: Any, told: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Example.model_validate({name: value})
    (problem,) = raised.value.errors()
    assert describe_problem(problem) == told


def test_all_problems_of_an_object_are_named() -> None:
    with pytest.raises(ValidationError) as raised:
        Example.model_validate({"count": "many", "table": {"a": "x"}})
    assert describe_problems(raised.value) == (
        "count = 'many': should be a whole number; table.a = 'x': should be a whole number"
    )


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("{", "is not JSON (EOF while parsing an object at line 1 column 1)"),
        ("7", "7 should be a table of names and values"),
        ('{"tone": "red"}', "tone is not a known name"),
        ('{"color": "green"}', "color: 'green' is sold out"),
        ('{"line": "a b"}', f"line = 'a b': {NAME_RULE}"),
        ('{"count": ["red"]}', "count = [...]: should be a whole number"),
        ('{"count": "%s"}' % ("x" * 1000), f"count = '{'x' * 37}...{'x' * 38}': should be a whole number"),
    ],
)
def test_problems_name_the_field_and_its_value_cut_short(data: str, told: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Example.model_validate_json(data)
    assert describe_problems(raised.value) == told


@pytest.mark.parametrize("name", Settings.model_fields)
def test_no_setting_is_refused_in_pydantics_words(name: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({name: object()})
    for problem in raised.value.errors():
        assert "Input" not in describe_problem(problem)
        assert "valid" not in describe_problem(problem)
