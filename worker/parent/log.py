"""The parent's log line for each restart, in the form that the settings ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from worker.parent.causes import HANG, KILLED, OUT_OF_MEMORY

_TEXTS = {
    HANG: "ended because one of its threads hung",
    OUT_OF_MEMORY: "was killed by the kernel because its control group was out of memory",
    KILLED: "was killed (SIGKILL) for an unknown reason",
}


def log_restart(*, worker: str, cause: str, wait_s: float) -> None:
    """Say that a worker died, why, and when the next one starts."""
    # Imported here, as only a parent that logs something needs the memory for these.
    import logging

    from shared.log_format import configure_logging

    configure_logging(log_format=log_format(os.environ), level="info")
    logging.getLogger("sortline.parent").error(
        "worker %s %s; another one takes its place in %.1f s",
        worker,
        _TEXTS.get(cause, f"crashed ({cause})"),
        wait_s,
        extra={"worker": worker, "cause": cause, "wait_s": wait_s},
    )


def log_format(environment: Mapping[str, str]) -> str:
    """The setting `log_format`, read as `shared.settings` reads it, which would take too much memory in the parent.

    The worker has read the same settings before, and has ended for good if they were wrong.
    """
    given = {name.upper(): value for name, value in environment.items()}
    if "SORTLINE_LOG_FORMAT" in given:
        return given["SORTLINE_LOG_FORMAT"]
    from shared.settings_file import CONFIG_VARIABLE, values_of

    try:
        settings = values_of(Path(environment.get(CONFIG_VARIABLE, "sortline.toml")))
    except (OSError, ValueError):
        return "text"
    return str(settings.get("log_format", "text"))
