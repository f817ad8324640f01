"""Runs campaigns one after the other, each on an empty server, and judges each."""

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

from shared.connection import check as check_server
from shared.connection import connect
from shared.errors import BadSetting
from shared.server_answers import server_errors
from shared.settings import Settings, load_settings, masked
from torture.campaigns.base import Campaign, Figures, Limits
from torture.campaigns.forged import forged
from torture.campaigns.kills import kills
from torture.campaigns.overload import overload
from torture.campaigns.poison import poison
from torture.campaigns.server import server
from torture.campaigns.stops import stops
from torture.checker import Breach
from torture.plant import Plant, PlantOptions, Say, times_to_result
from torture.server import TortureServer

CAMPAIGNS: Mapping[str, Campaign] = {
    "kills": kills,
    "stops": stops,
    "server": server,
    "overload": overload,
    "poison": poison,
    "forged": forged,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What one campaign did, and what became of it."""

    campaign: str
    seconds: float
    accepted: int
    refused: int
    results: int
    attempts: Mapping[int, int]
    outcomes: Mapping[str, int]
    figures: Figures
    breaches: Sequence[Breach]


def run_campaigns(
    names: Sequence[str], limits: Limits, *, engine: str, seed: int, flags: Mapping[str, Any], folder: Path, say: Say
) -> list[Report]:
    """Each of the campaigns, in this order.

    Raises:
        BadSetting: the folder is not empty, or the server that `flags` names isn't.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):  # another run's ledgers would be taken for this one's
        raise BadSetting(f"--folder {folder} holds files: name an empty one, or one that does not exist.")
    reports = []
    for name in names:
        with _server(flags, folder / name) as (settings, server):
            options = PlantOptions(
                settings=settings,
                server=server,
                folder=folder / name,
                engine=engine,
                seed=seed,
                say=functools.partial(_say_of, name, say),
            )
            reports.append(_run(name, limits, options))
    return reports


def _say_of(campaign: str, say: Say, text: str) -> None:
    say(f"{campaign}: {text}")


def _run(name: str, limits: Limits, options: PlantOptions) -> Report:
    began = time.monotonic()
    with Plant(options) as plant:
        figures = CAMPAIGNS[name](plant, limits)
        plant.settle()
        history, breaches = plant.judge()
        waits_s = times_to_result(plant.deaths, history.seen)
    entries = [entries[0] for entries in history.seen.entries.values()]
    return Report(
        campaign=name,
        seconds=time.monotonic() - began,
        accepted=len(history.ledger.accepted),
        refused=len(history.ledger.refused),
        results=len(entries),
        attempts=_counted(entry.attempt for entry in entries),
        outcomes=_counted(entry.outcome for entry in entries),
        figures={**figures, **_percentiles(waits_s)},
        breaches=breaches,
    )


@contextlib.contextmanager
def _server(flags: Mapping[str, Any], folder: Path) -> Iterator[tuple[Settings, TortureServer | None]]:
    """An empty server, for one campaign: the one that a flag names, or one of the torture's own.

    What its own has acknowledged is on the disk: then a kill loses nothing, and what is lost was lost by Sortline.
    """
    if flags["redis_url"] is None:
        folder.mkdir()
        with TortureServer(folder, appendfsync="always") as server:
            yield load_settings(redis_url=server.url), server
        return
    settings = load_settings(redis_url=flags["redis_url"])
    with server_errors(settings.redis_url):
        client: Any = connect(settings.redis_url)
        check_server(client, settings.redis_url)
        if (count := client.dbsize()) and not flags["flush"]:
            raise BadSetting(
                f"redis_url {masked(settings.redis_url)}: the database holds {count:,} keys, and the torture needs an "
                "empty one. Name another, e.g. …/15, or say --flush to have this one EMPTIED."
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
