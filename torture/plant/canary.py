"""The canary: forged jobs name this module. If it is imported, or `sing` is called, the record of executions says so.

Nothing of ours imports it.
"""

from __future__ import annotations

from torture.plant.executions import record


def sing(*_: object, **__: object) -> None:
    """Record the call."""
    record("the canary's function was called")


record("the canary was imported")
