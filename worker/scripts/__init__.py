"""The server-side steps. Each is a Lua file of this folder, run with `common.lua` in front of it."""

from __future__ import annotations

from importlib.resources import files

from shared.wire import RepeatableScript, Wire, WireScript


def load(wire: Wire, name: str) -> WireScript:
    """The script `name`.lua, ready to be called; it is sent to the server once."""
    folder = files(__name__)
    source = folder.joinpath("common.lua").read_text() + folder.joinpath(f"{name}.lua").read_text()
    return WireScript(wire, source)


def load_repeatable(wire: Wire, name: str) -> RepeatableScript:
    """As `load`, for a script whose call may be repeated when its answer was lost."""
    return RepeatableScript(load(wire, name))
