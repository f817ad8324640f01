"""Says in plain words what is wrong with a value that pydantic refused.

pydantic's own texts are for programmers: "Input should be a valid integer, unable to parse string as an integer".
"""

from __future__ import annotations

import reprlib

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.schemas import NAME_PATTERN, NAME_RULE

# By the type of the problem. Types that aren't here keep pydantic's text.
_TEXTS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "should be a number"),
    "finite_number": "should be a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
    "string_type": "should be text",
    **dict.fromkeys(("list_type", "tuple_type"), "should be a list"),
    **dict.fromkeys(("dict_type", "model_type"), "should be a table of names and values"),
    "path_type": "should be a path",
    "json_invalid": "is not JSON ({error})",
    "missing": "is missing",
    "extra_forbidden": "is not a known name",
    "greater_than": "should be above {gt:g}",
    "greater_than_equal": "should be at least {ge:g}",
    "less_than": "should be below {lt:g}",
    "less_than_equal": "should be at most {le:g}",
    "literal_error": "should be {expected}",
    "string_pattern_mismatch": "should match the pattern {pattern}",
    "string_too_short": "should have {min_length} or more characters",
    "string_too_long": "should have {max_length} or fewer characters",
    "too_short": "should have {min_length} or more entries",
    "too_long": "should have {max_length} or fewer entries",
}

_MAX_QUOTED_CHARACTERS = 80


def describe_problem(problem: ErrorDetails) -> str:
    """What is wrong with one value, without its name and without a full stop, e.g. "should be a whole number"."""
    context = problem.get("ctx", {})
    if context.get("pattern") == NAME_PATTERN:
        return NAME_RULE
    if text := _TEXTS.get(problem["type"]):
        return text.format(**context)
    return problem["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")


def describe_problems(error: ValidationError) -> str:
    """All problems of a refused object, each with its field and value, e.g. "training.seed = 'x': should be …"."""
    return "; ".join(f"{_place(problem)}{describe_problem(problem)}" for problem in error.errors(include_url=False))


def quoted(value: object) -> str:
    """The value in a form that a message can show: a long text is cut, and a list or table is only hinted at."""
    brief = reprlib.Repr()
    brief.maxlevel = 0
    brief.maxstring = _MAX_QUOTED_CHARACTERS
    return brief.repr(value)


def _place(problem: ErrorDetails) -> str:
    """What stands before the text of a problem: the field and its value, as far as there is a field and a value."""
    name = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "json_invalid":
            return ""
        case "missing" | "extra_forbidden":
            return f"{name} "
        case "value_error":  # from our own validators, whose texts name the value
            return f"{name}: " if name else ""
    value = quoted(problem["input"])
    return f"{name} = {value}: " if name else f"{value} "
