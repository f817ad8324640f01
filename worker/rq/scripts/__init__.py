"""The scripts that run on the server. Each is a Lua file in this folder, sent with `common.lua` in front of it."""

from __future__ import annotations

from importlib.resources import files

from shared.server.raw_connection import RawConnection, RawScript, RepeatableScript


def load(connection: RawConnection, name: str) -> RawScript:
    """The script `name`.lua, ready to be called. It is sent to the server once."""
    return RawScript(connection, source(name))


def load_repeatable(connection: RawConnection, name: str) -> RepeatableScript:
    """As `load`, for a script whose call may be repeated if its answer was lost."""
    return RepeatableScript(connection, source(name))


def source(name: str) -> str:
    """The text that the server runs. The server knows it by its SHA-1."""
    folder = files(__name__)
    return folder.joinpath("common.lua").read_text() + folder.joinpath(f"{name}.lua").read_text()
