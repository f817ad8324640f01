"""`kills`: SIGKILL of workers and producers at random moments, while others work on."""

from __future__ import annotations

import time

from torture.campaigns.base import Figures, Limits
from torture.feeder import Feeding
from torture.plant import Plant
from torture.processes import wait_until

WORKERS = 4
FEEDERS = 2
# One kill in so many is of a producer, and one of a worker in so many takes one that may still be on its way.
FEEDER_SHARE = 0.2
UNREADY_SHARE = 0.1
MAX_PAUSE_S = 2.0
# A worker that is killed counts as an attempt at each job it held, and each of these kills finds some 30 jobs in hand.
# With the three attempts of the default some job would be killed three times, and fail as the setting says it should.
MAX_ATTEMPTS = 20


def kills(plant: Plant, limits: Limits) -> Figures:
    """Kill, and replace what was killed; one worker that is ready is always left, to take over at once."""
    patient = plant.settings.model_copy(update={"max_attempts": MAX_ATTEMPTS})
    plant.start_workers(WORKERS)
    plant.start_feeders([Feeding()] * FEEDERS, patient)
    for number in range(1, limits.kills + 1):
        plant.options.say(f"kill {number:,} of {limits.kills:,}")
        time.sleep(plant.random.uniform(0, MAX_PAUSE_S))
        if plant.random.random() < FEEDER_SHARE:
            plant.kill_feeder(plant.random.choice(plant.feeders))
            plant.start_feeder(Feeding(), patient)
        else:
            _kill_a_worker(plant)
            plant.start_worker()
    return {
        "workers killed": len(plant.deaths),
        "of them with jobs in hand": sum(bool(death.job_ids) for death in plant.deaths),
        "jobs in their hands": sum(len(death.job_ids) for death in plant.deaths),
        "producers killed": limits.kills - len(plant.deaths),
    }


def _kill_a_worker(plant: Plant) -> None:
    wait_until(lambda: len(plant.ready) > 1, "two workers are ready")
    among = plant.workers if plant.random.random() < UNREADY_SHARE else plant.ready
    plant.kill_worker(plant.random.choice(among))
