"""`kills`: SIGKILL for workers and producers at random moments, while the others go on."""

from __future__ import annotations

import time

from torture.campaigns.base import Figures, Limits
from torture.plant.feeder import FeederOptions
from torture.plant.plant import Plant
from torture.server.waiting import wait_until

WORKERS = 4
FEEDERS = 2
# The share of kills that hit a producer, and the share of the others that may hit a worker that is still starting.
FEEDER_SHARE = 0.2
UNREADY_SHARE = 0.1
MAX_PAUSE_S = 2.0


def kills(plant: Plant, limits: Limits) -> Figures:
    """Kill a process and start another in its place, again and again. One ready worker is always left to take over."""
    plant.start_workers(WORKERS)
    plant.start_feeders([FeederOptions()] * FEEDERS)
    for number in range(1, limits.kills + 1):
        plant.options.on_progress(f"kill {number:,} of {limits.kills:,}")
        time.sleep(plant.random.uniform(0, MAX_PAUSE_S))
        if plant.random.random() < FEEDER_SHARE:
            plant.kill_feeder(plant.random.choice(plant.feeders))
            plant.start_feeder(FeederOptions())
        else:
            _kill_a_worker(plant)
            plant.start_worker()
    return {
        "workers killed": len(plant.deaths),
        "workers killed with jobs in hand": sum(bool(death.job_ids) for death in plant.deaths),
        "jobs that they held": sum(len(death.job_ids) for death in plant.deaths),
        "producers killed": limits.kills - len(plant.deaths),
    }


def _kill_a_worker(plant: Plant) -> None:
    wait_until(lambda: len(plant.ready) > 1, "two workers are ready")
    among = plant.workers if plant.random.random() < UNREADY_SHARE else plant.ready
    plant.kill_worker(plant.random.choice(among))
