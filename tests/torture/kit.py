"""Short runs of the campaigns."""

from __future__ import annotations

from pathlib import Path

from torture.campaigns.base import Limits
from torture.run import Report, run_campaigns

# Of the file with the texts of progress.
PROGRESS_SUFFIX = ".progress"


def short_run(name: str, folder: Path, *, kills: int = 4, seconds: float = 1) -> Report:
    """One campaign on a server of its own; its logs and ledgers are in `folder`/`name`.

    What it told of its progress is in a file beside `folder`.
    """
    progress: list[str] = []
    (report,) = run_campaigns(
        [name],
        Limits(kills=kills, seconds=seconds),
        engine="null",
        seed=7,
        redis_url=None,
        flush=False,
        folder=folder,
        on_progress=progress.append,
    )
    folder.with_suffix(PROGRESS_SUFFIX).write_text("\n".join(progress))
    return report
