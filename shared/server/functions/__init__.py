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
from typing import cast

import redis

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
        if "already exists" in str(error):
            return False
        raise
    return True


def loaded_versions(client: redis.Redis) -> list[str]:
    """The versions of our functions that the server has, sorted.

    Raises:
        redis.exceptions.RedisError: as `load`.
    """
    found = cast("list[list[bytes | str]] | list[dict[bytes | str, bytes | str]]", client.function_list(f"{_PREFIX}*"))
    return sorted(_library_name(entry).removeprefix(_PREFIX) for entry in found)


def delete(client: redis.Redis, version: str) -> None:
    """Delete the functions of one version. A producer of that version then waits until somebody loads them again.

    Raises:
        redis.exceptions.RedisError: as `load`, or the server does not have them.
    """
    client.function_delete(_PREFIX + version)


def _library_name(entry: list[bytes | str] | dict[bytes | str, bytes | str]) -> str:
    """The name of one library in the answer to FUNCTION LIST: a map, or in older protocols names and values in turn."""
    pairs = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
    name = pairs.get(b"library_name") or pairs["library_name"]
    return name.decode() if isinstance(name, bytes) else name
