"""The functions that producers call on the server (FCALL): `submit` enqueues jobs, `ask` asks whether it would.

They are functions and not scripts, so that a producer's user needs no right to run scripts. Who may load functions,
mostly a worker or an administrator, decides what a producer can run. A function runs with the rights of its caller.

Producers of several releases may use one server at the same time. Therefore the names end with a digest of the source,
and nothing replaces or deletes the functions of another release.
"""

from __future__ import annotations

import functools
import hashlib
from enum import StrEnum
from importlib.resources import files
from typing import Any

import redis

from shared.errors import CommandRefused

_PREFIX = "sortline_"
# Enough that two releases never have the same names.
_VERSION_DIGITS = 12


class Function(StrEnum):
    """The functions. Each has a Lua file of its name in this folder, which describes its keys and arguments."""

    SUBMIT = "submit"
    ASK = "ask"


@functools.cache
def script(function: Function) -> str:
    """The function's text, for a server without functions: it takes the same keys and arguments as a script."""
    texts = (
        files(__name__).joinpath(file).read_text(encoding="utf-8") for file in ("admission.lua", f"{function}.lua")
    )
    lines = (line.strip() for line in "".join(texts).splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("--")) + "\n"


@functools.cache
def version() -> str:
    """The version of the functions: hexadecimal digits that are different whenever their source is."""
    text = "".join(script(function) for function in Function)
    return hashlib.sha256(text.encode()).hexdigest()[:_VERSION_DIGITS]


def library_name() -> str:
    """The name of the library that holds the functions on the server."""
    return _PREFIX + version()


def name_of(function: Function) -> str:
    """The name by which the server knows the function."""
    return f"{_PREFIX}{function}_{version()}"


@functools.cache
def library() -> str:
    """The library's text, for FUNCTION LOAD."""
    parts = [f"#!lua name={library_name()}\n"]
    for function in Function:
        parts.append(f"local function {function}(KEYS, ARGV)\n{script(function)}end\n")
        parts.append(f"redis.register_function('{name_of(function)}', {function})\n")
    return "".join(parts)


def load(client: redis.Redis) -> bool:
    """Load the functions, unless the server has them. Returns whether they were loaded now.

    Raises:
        redis.exceptions.RedisError: the server can't be reached, refuses, or knows no functions
            (`error_translation.lacks_functions`).
    """
    try:
        client.function_load(library())
    except redis.exceptions.ResponseError as error:
        if str(error).startswith("Library "):  # it "already exists"
            return False
        raise  # also if another library has a function of this name
    return True


def check_text(client: redis.Redis) -> None:
    """Check that what the server has under the name of this release is this release's text.

    Raises:
        CommandRefused: it is another text: somebody has loaded other functions under this name.
        redis.exceptions.RedisError: as `load`.
    """
    for entry in _entries(client, library_name(), withcode=True):
        if entry["library_code"] != library():
            raise CommandRefused(
                f"the library {library_name()} on the Redis server is not what this release of Sortline loads: "
                "somebody with the right to FUNCTION has replaced it. Find out who, then run "
                f"`sortline functions delete {version()}` and `sortline functions load`."
            )


def loaded_versions(client: redis.Redis) -> list[str]:
    """The versions of our functions that the server has, sorted.

    Raises:
        redis.exceptions.RedisError: as `load`.
    """
    return sorted(entry["library_name"].removeprefix(_PREFIX) for entry in _entries(client, f"{_PREFIX}*"))


def delete(client: redis.Redis, version: str) -> None:
    """Delete the functions of one version. A producer of that version then waits until somebody loads them again.

    Raises:
        redis.exceptions.RedisError: as `load`, or the server does not have them.
    """
    client.function_delete(_PREFIX + version)


def _entries(client: redis.Redis, pattern: str, *, withcode: bool = False) -> list[dict[str, str]]:
    """The texts of the server's answer: for each library a map, or in older protocols names and values in turn."""
    answer: list[Any] = client.function_list(pattern, withcode=withcode)
    maps = [entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True)) for entry in answer]
    return [{_text(name): _text(value) for name, value in entry.items() if _is_text(value)} for entry in maps]


def _is_text(value: object) -> bool:
    return isinstance(value, bytes | str)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
