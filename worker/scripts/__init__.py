"""The server-side steps. Each is a Lua file of this folder, run with `common.lua` in front of it."""

from __future__ import annotations

from importlib.resources import files

import redis
from redis.commands.core import Script


def load(client: redis.Redis, name: str) -> Script:
    """The script `name`.lua, ready to be called on `client`; it is sent to the server once."""
    folder = files(__name__)
    source = folder.joinpath("common.lua").read_text() + folder.joinpath(f"{name}.lua").read_text()
    return client.register_script(source)
