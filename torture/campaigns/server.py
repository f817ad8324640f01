"""`server`: the server is killed, emptied, filled and blocked; the links to it are slowed, stalled and cut."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import redis

from torture.campaigns.base import Figures, Limits
from torture.plant.feeder import FeederOptions
from torture.plant.plant import Plant
from torture.server.proxy import Proxy, proxy_to
from torture.server.server import TortureServer
from torture.server.states import busy, configured, replica, unable_to_save
from worker.rq.scripts import source

WORKERS = 2
FEEDERS = 2
RATE_HZ = 60.0
# The shortest that the setting allows: leases run out during the longest faults, and workers take each other's jobs.
LEASE_S = 2
# How long a fault may last, and the longest pause after one.
FAULTS_LAST_S = (0.3, 0.6, 1.0, 3.0)
MAX_PAUSE_S = 0.6
# The share of the time in which the faults include those that make the server lose its data.
LOSSES_SHARE = 0.25
LINK_DELAY_S = 0.1
CUT_SHARE = 0.5
# Parts of the requests that are repeated when their answer was lost: a producer's EXEC, a worker's MGET, claim and
# finish.
REPEATED = (
    b"$4\r\nEXEC\r\n",
    b"$4\r\nMGET\r\n",
    *(hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest().encode() for name in ("claim", "finish")),
)
# The wait until repeated calls have been answered. The next fault may be a loss of the server's data, and with it of
# what the server remembers of the first call.
ANSWERED_S = 1.5
# More than one, because the client repeats a call once by itself, and no error is raised then.
ANSWERS_LOST = 4


@dataclass(frozen=True, slots=True)
class Target:
    """What faults act on."""

    plant: Plant
    server: TortureServer
    proxy: Proxy

    def duration_s(self) -> float:
        """How long this fault lasts."""
        return self.plant.random.choice(FAULTS_LAST_S)

    def wait(self) -> None:
        """Wait while this fault lasts."""
        time.sleep(self.duration_s())


Faults = dict[str, Callable[[Target], None]]


def server(plant: Plant, limits: Limits) -> Figures:
    """Cause one fault after the other, in random order, until the time is over and each was caused once.

    The server syncs its append-only file before each answer, so that it loses nothing when it is killed. Faults that
    lose its data are caused at the end, with new workers, so that the counters of those before can be checked.
    """
    assert plant.server is not None, "see NEED_OWN_SERVER"
    proxy = plant.enter(proxy_to(plant.settings.redis_url))
    linked = plant.settings.model_copy(update={"redis_url": proxy.url, "lease_s": LEASE_S})
    target = Target(plant, plant.server, proxy)
    counts: Counter[str] = Counter()
    for faults, share in ((FAULTS, 1 - LOSSES_SHARE), (FAULTS | LOSSES, LOSSES_SHARE)):
        plant.start_workers(WORKERS, linked)
        plant.start_feeders([FeederOptions(rate_hz=RATE_HZ)] * FEEDERS, linked)
        _cause(faults, target, counts, until=time.monotonic() + share * limits.seconds)
        plant.settle()
    return dict(sorted(counts.items()))


def _cause(faults: Faults, target: Target, counts: Counter[str], *, until: float) -> None:
    plant = target.plant
    while time.monotonic() < until or not all(counts[name] for name in faults):
        missing = [name for name in faults if not counts[name]]
        name = plant.random.choice(missing or list(faults))
        plant.options.on_progress(f"{name} ({counts.total() + 1})")
        faults[name](target)
        counts[name] += 1
        time.sleep(plant.random.uniform(0, MAX_PAUSE_S))


# faults ────────────────────────────────────────────────────────────────────────────────────────────


def _kill_and_restart(target: Target) -> None:
    target.server.kill()
    target.wait()
    target.server.start()


def _restart_empty(target: Target) -> None:
    target.plant.lose_data(target.server.restart_empty)


def _flush_all(target: Target) -> None:
    target.plant.lose_data(target.plant.client.flushall)


def _kill_clients(target: Target) -> None:
    target.plant.client.client_kill_filter(_type="normal", skipme=True)


def _pause_clients(target: Target) -> None:
    target.plant.client.client_pause(int(1000 * target.duration_s()), all=True)
    target.plant.client.ping()  # answered when the pause is over


def _pause_writes(target: Target) -> None:
    target.plant.client.client_pause(int(1000 * target.duration_s()), all=False)
    target.wait()


def _flush_scripts(target: Target) -> None:
    target.plant.client.script_flush()


def _flush_functions(target: Target) -> None:
    target.plant.client.function_flush()


def _fill_memory(target: Target) -> None:
    used_bytes = target.plant.client.info("memory")["used_memory"]
    with configured(target.plant.client, "maxmemory", str(used_bytes // 2)):
        target.wait()


def _fail_to_save(target: Target) -> None:
    with unable_to_save(target.plant.client):
        target.wait()


def _be_a_replica(target: Target) -> None:
    with replica(target.plant.client):
        target.wait()


def _run_a_long_script(target: Target) -> None:
    with busy(target.plant.client):
        target.wait()


def _refuse_clients(target: Target) -> None:
    """Lower maxclients, cut the connections of workers and producers, and take their places for a while."""
    client = target.plant.client
    with configured(client, "maxclients", str(len(client.client_list()) + 1)):
        target.proxy.cut_all()
        crowd = [target.server.client() for _ in range(client.info("clients")["maxclients"])]
        with contextlib.ExitStack() as stack:
            for each in crowd:
                stack.enter_context(each)
                with contextlib.suppress(redis.exceptions.RedisError):  # a worker was faster: no place is left
                    each.ping()
            target.wait()


def _stop_the_process(target: Target) -> None:
    target.server.pause_process()
    try:
        target.wait()
    finally:
        target.server.resume_process()


def _slow_links(target: Target) -> None:
    links = (target.proxy.to_server, target.proxy.to_client)
    for link in links:
        link.delay_s = LINK_DELAY_S
    target.wait()
    for link in links:
        link.delay_s = 0.0


def _stall_links(target: Target) -> None:
    target.proxy.stall()
    target.wait()
    target.proxy.resume()


def _cut_links(target: Target) -> None:
    target.proxy.cut_share(CUT_SHARE, target.plant.random)


def _refuse_links(target: Target) -> None:
    target.proxy.refuse()
    target.proxy.cut_all()
    target.wait()
    target.proxy.accept()


def _drop_answers(target: Target) -> None:
    """Lose answers to each kind of call whose repetition must find out what the first call did, and to some others."""
    for marker in REPEATED:
        target.proxy.drop_answers(ANSWERS_LOST, to=marker)
    target.proxy.drop_answers(ANSWERS_LOST)
    time.sleep(ANSWERED_S)


FAULTS: Faults = {
    "killed, restarted with its append-only file": _kill_and_restart,
    "CLIENT KILL": _kill_clients,
    "CLIENT PAUSE": _pause_clients,
    "CLIENT PAUSE WRITE": _pause_writes,
    "SCRIPT FLUSH": _flush_scripts,
    "FUNCTION FLUSH": _flush_functions,
    "memory full": _fill_memory,
    "can't save (MISCONF)": _fail_to_save,
    "made a replica (READONLY)": _be_a_replica,
    "a long script (BUSY)": _run_a_long_script,
    "maxclients": _refuse_clients,
    "process stopped": _stop_the_process,
    "links slow": _slow_links,
    "links stalled": _stall_links,
    "links cut": _cut_links,
    "links refused": _refuse_links,
    "answers lost": _drop_answers,
}
LOSSES: Faults = {"restarted empty": _restart_empty, "FLUSHALL": _flush_all}
