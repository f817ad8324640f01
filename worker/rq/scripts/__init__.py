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
    parts = (files(__name__).joinpath(file) for file in ("common.lua", f"{name}.lua"))
    return "".join(part.read_text(encoding="utf-8") for part in parts)
