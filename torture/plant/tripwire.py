"""The tripwire: forged jobs name this module. If it is imported, or `trip` is called, the record of executions says so.

Nothing of ours imports it.
"""

from __future__ import annotations

from torture.plant.executions import record


def trip(*_: object, **__: object) -> None:
    """Record the call."""
    record("the tripwire's function was called")


record("the tripwire was imported")
