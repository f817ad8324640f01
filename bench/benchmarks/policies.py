"""`bench policies`: Sortline's choice of images and batches beside other policies, on the same engine and arrivals.

Virtual time: the run takes none of the machine's, is exact, and gives the same figures each time. What is compared is
the choice alone: an image arrives when it is captured, and decoding, Redis and results take no time.

- `fixed batch`: wait for a full batch, but at most a fixed time; oldest first; give nothing up. TensorFlow Serving,
  Triton and celery-batches batch like this.
- `fifo`: run what waits, oldest first; give nothing up.
- `sortline`: the worker's own batcher, estimator and rules for giving images up.

Two simulated engines (`bench.engines.simulated`), loads in percent of what the engine does in full batches. Arrivals
are random (Poisson), or regular from several cameras, each of which starts at a random time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.contenders.batch_policies import Arrival, Fifo, FixedBatch, Policy
from bench.contenders.sortline_policy import SortlinePolicy
from bench.engines.simulated import FIXED_RATE, GPU_LIKE, BatchTime
from bench.measuring.record import OnProgress, Record, percentiles
from shared.errors import Transient
from shared.settings import Settings

LOADS = (50, 80, 100, 150)
ENGINES = {"fixed rate": FIXED_RATE, "GPU-like": GPU_LIKE}
CAMERAS = 4
SEED = 15
# Of the policy with a fixed linger: in the middle of what the manuals of such servers suggest for online serving.
LINGER_S = 0.010


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """What became of the arrivals under one policy."""

    times_ms: list[float]  # from capture to result, of the images in time
    late: int
    given_up: int
    batches: int

    def record(self, seconds: float) -> Record:
        """The figures, of arrivals that took `seconds`."""
        in_time = len(self.times_ms)
        images = in_time + self.late + self.given_up
        return {
            "images": images,
            "in_time": in_time,
            "late": self.late,
            "expired": self.given_up,
            "in_time_share": round(in_time / images, 4),
            "in_time_per_s": round(in_time / seconds, 1),
            "batch_mean": round((in_time + self.late) / self.batches, 2) if self.batches else 0.0,
            "in_time_ms": percentiles(self.times_ms) if self.times_ms else None,
        }


def bench_policies(
    settings: Settings, *, seconds: float, deadline_ms: float, on_progress: OnProgress, seed: int = SEED
) -> Record:
    """Share in time, mean batch and p99 of each policy by engine, arrivals and load, of `seconds` of virtual time."""
    cases = []
    for engine_name, engine in ENGINES.items():
        for pattern, arrive in PATTERNS.items():
            for percent in LOADS:
                rate_hz = engine.full_rate(settings.max_batch) * percent / 100
                rng = random.Random(seed)  # noqa: S311  # arrivals, not secrets
                arrivals = arrivals_at(arrive(rng, rate_hz, seconds), deadline_s=deadline_ms / 1000)
                for name, make in _policies(settings, engine).items():
                    on_progress(f"policies: {engine_name} engine, {pattern} arrivals, {percent} %, {name}")
                    found = simulate(make(), arrivals, engine)
                    case = {"engine": engine_name, "arrivals": pattern, "percent": percent, "policy": name}
                    cases.append(case | found.record(seconds))
    return {
        "benchmark": "policies",
        "seconds": seconds,
        "deadline_ms": deadline_ms,
        "max_batch": settings.max_batch,
        "linger_ms": LINGER_S * 1000,
        "cameras": CAMERAS,
        "seed": seed,
        "engines_images_per_s": {
            name: round(engine.full_rate(settings.max_batch), 1) for name, engine in ENGINES.items()
        },
        "cases": cases,
    }


def _policies(settings: Settings, engine: BatchTime) -> dict[str, Callable[[], Policy]]:
    return {
        "fixed batch": lambda: FixedBatch(max_batch=settings.max_batch, linger_s=LINGER_S),
        "fifo": lambda: Fifo(max_batch=settings.max_batch),
        "sortline": lambda: SortlinePolicy(settings, engine),
    }


def poisson(rng: random.Random, rate_hz: float, seconds: float) -> list[float]:
    """Times of independent arrivals, in order."""
    times, at = [], rng.expovariate(rate_hz)
    while at < seconds:
        times.append(at)
        at += rng.expovariate(rate_hz)
    return times


def regular(rng: random.Random, rate_hz: float, seconds: float) -> list[float]:
    """Times of the frames of CAMERAS cameras, in order. Each is regular, and starts anywhere in its first interval."""
    interval_s = CAMERAS / rate_hz
    starts = [rng.uniform(0, interval_s) for _ in range(CAMERAS)]
    return sorted(
        start + number * interval_s for start in starts for number in range(math.ceil((seconds - start) / interval_s))
    )


PATTERNS = {"random": poisson, "regular": regular}


def arrivals_at(times: Sequence[float], *, deadline_s: float) -> list[Arrival]:
    """The images that arrive at these times."""
    return [Arrival(number, at, at + deadline_s) for number, at in enumerate(times)]


def simulate(policy: Policy, arrivals: Sequence[Arrival], engine: BatchTime) -> Simulated:
    """Run the policy on one engine, a batch at a time, until all arrivals have ended.

    Raises:
        Transient: the policy has lost an image, or made up one.
    """
    times_ms: list[float] = []
    ended: list[int] = []
    late = given_up = batches = 0
    running: Sequence[Arrival] = ()
    next_arrival = 0
    event_at = arrivals[0].at if arrivals else math.inf
    now = 0.0
    free_at = ask_at = math.inf  # when the running batch ends; when the policy wants to be asked again
    while event_at < math.inf:
        now = event_at
        while next_arrival < len(arrivals) and arrivals[next_arrival].at <= now:
            policy.arrive(arrivals[next_arrival], now=now)
            next_arrival += 1
        if running and free_at <= now:
            in_time = [(now - image.at) * 1000 for image in running if now <= image.deadline_at]
            times_ms += in_time
            late += len(running) - len(in_time)
            running, free_at = (), math.inf
            policy.end(now=now)
        if not running:
            decision = policy.decide(now=now)
            given_up += len(decision.given_up)
            running, ask_at = decision.batch, decision.ask_at
            ended += [image.number for image in (*decision.given_up, *running)]
            if running:
                batches += 1
                free_at, ask_at = now + engine.seconds(len(running)), math.inf
        event_at = min(free_at, ask_at, arrivals[next_arrival].at if next_arrival < len(arrivals) else math.inf)
    if sorted(ended) != [image.number for image in arrivals]:
        raise Transient(f"{len(arrivals):,} images arrived, and {len(ended):,} ended: the run is void.")
    return Simulated(times_ms=times_ms, late=late, given_up=given_up, batches=batches)
