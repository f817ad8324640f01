"""Runs campaigns one after the other, each on an empty server, and checks the history of each."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import BadSetting, Transient
from shared.masking import masked
from shared.server.connection import check as check_server
from shared.server.connection import connect
from shared.server.error_translation import server_errors
from shared.settings import NO_PASSWORD, Settings, load_settings
from torture.campaigns.base import Campaign, Figures, Limits
from torture.campaigns.files import files
from torture.campaigns.forged import forged
from torture.campaigns.fuzz import fuzz
from torture.campaigns.kills import kills
from torture.campaigns.overload import overload
from torture.campaigns.poison import poison
from torture.campaigns.server import server
from torture.campaigns.stops import stops
from torture.history.checker import Breach, lost_by_server
from torture.history.deaths import times_to_result
from torture.plant.plant import OnProgress, Plant, PlantOptions
from torture.server.server import TortureServer

CAMPAIGNS: Mapping[str, Campaign] = {
    "kills": kills,
    "stops": stops,
    "server": server,
    "overload": overload,
    "poison": poison,
    "forged": forged,
    "files": files,
    "fuzz": fuzz,
}
NEED_OWN_SERVER = ("server",)
SENDS_NO_IMAGES = ("fuzz",)
# The queues that campaigns send to, whatever the user's own setting is.
QUEUES = "live,bulk"

COMES_TO_ITS_END = "the campaign comes to its end"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The figures of one campaign, and the promises that were broken in it."""

    campaign: str
    seconds: float
    accepted: int
    refused: int
    results: int
    lost_by_server: int
    attempts: Mapping[int, int]
    outcomes: Mapping[str, int]
    figures: Figures
    breaches: Sequence[Breach]

    @property
    def sends_images(self) -> bool:
        """Whether the campaign sends images to workers. If not, it counts its inputs."""
        return self.campaign not in SENDS_NO_IMAGES

    @property
    def inputs(self) -> int:
        """How many inputs a campaign without images has tried."""
        return sum(self.figures.get("inputs", {}).values())


def run_campaigns(
    names: Sequence[str],
    limits: Limits,
    *,
    engine: str,
    seed: int,
    redis_url: str | None,
    flush: bool,
    folder: Path,
    on_progress: OnProgress,
) -> list[Report]:
    """Run each of the campaigns, in this order.

    Args:
        redis_url: an empty server; None for one of the torture's own.
        flush: empty that server first.
        folder: an empty folder for logs and ledgers; created if it does not exist.

    Raises:
        BadSetting: the folder or the server can't be used, or a worker does not start with these settings.
        NotFound: the torture's own server is not installed.
        Transient: the server can't be reached, or the plant does not come to rest.
    """
    if redis_url is not None and (refused := [name for name in names if name in NEED_OWN_SERVER]):
        raise BadSetting(f"the campaign `{refused[0]}` kills its server: run it without --redis-url.")
    folder = folder.absolute()  # the server runs in another folder
    _make_folders(folder, names)
    reports = []
    for name in names:
        with _server(redis_url, folder / name, flush=flush) as (settings, server):
            options = PlantOptions(
                settings=settings,
                server=server,
                folder=folder / name,
                engine=engine,
                seed=seed,
                on_progress=functools.partial(_prefix_progress, name, on_progress),
            )
            reports.append(_run(name, limits, options))
    return reports


def _make_folders(folder: Path, names: Sequence[str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):  # ledgers of another run would be read as this run's
            raise BadSetting(f"--folder {folder} is not empty: name an empty folder, or one that does not exist.")
        for name in names:
            (folder / name).mkdir()
    except OSError as error:
        raise BadSetting(f"--folder {folder} can't be used: {error.strerror}.") from error


def _prefix_progress(campaign: str, on_progress: OnProgress, text: str) -> None:
    on_progress(f"{campaign}: {text}")


def _run(name: str, limits: Limits, options: PlantOptions) -> Report:
    began = time.monotonic()
    with Plant(options) as plant:
        figures: Figures = {}
        try:
            figures = CAMPAIGNS[name](plant, limits)
        except Transient as error:  # what it waited for did not happen; its history is checked all the same
            plant.note(COMES_TO_ITS_END, str(error))
        plant.settle()
        history, breaches = plant.check_history()
        waits_s = times_to_result(plant.deaths, history.observed)
    entries = [entries[0] for entries in history.observed.entries.values()]
    return Report(
        campaign=name,
        seconds=time.monotonic() - began,
        accepted=len(history.ledger.accepted),
        refused=len(history.ledger.refused),
        results=len(entries),
        lost_by_server=lost_by_server(history),
        attempts=_counted(entry.attempt for entry in entries),
        outcomes=_counted(entry.outcome for entry in entries),
        figures={**figures, **_percentiles(waits_s)},
        breaches=breaches,
    )


@contextlib.contextmanager
def _server(redis_url: str | None, folder: Path, *, flush: bool) -> Iterator[tuple[Settings, TortureServer | None]]:
    """An empty server for one campaign: the one at `redis_url`, or one of the torture's own.

    The torture's own server syncs its append-only file before each answer. Killing it loses nothing, so whatever is
    lost was lost by Sortline.
    """
    if redis_url is None:
        with TortureServer(folder, appendfsync="always") as server, server_errors(server.url):
            yield load_settings(redis_url=server.url, queues=QUEUES, **NO_PASSWORD), server
        return
    settings = load_settings(redis_url=redis_url, queues=QUEUES)
    with server_errors(settings.redis_url):
        client: Any = connect(settings.redis_url)
        check_server(client, settings.redis_url)
        if (count := client.dbsize()) and not flush:
            raise BadSetting(
                f"redis_url {masked(settings.redis_url)}: the database holds {count:,} keys, and the torture needs an "
                "empty one. Name another, e.g. …/15, or add --flush, which DELETES everything in this one."
            )
        client.flushdb()
        try:
            yield settings, None
        finally:
            client.flushdb()


def _counted(values: Iterable[Any]) -> dict[Any, int]:
    counts = Counter(values)
    return {value: counts[value] for value in sorted(counts)}


def _percentiles(waits_s: Sequence[float]) -> Figures:
    if not waits_s:
        return {}
    p50, p99, longest = np.percentile(waits_s, [50, 99, 100]).round(2).tolist()
    return {"from death to result elsewhere, s": {"p50": p50, "p99": p99, "longest": longest}}
