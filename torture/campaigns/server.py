"""`server`: the server is killed, emptied, filled up, hindered; the links to it are slow, stalled and cut."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import BadSetting
from torture.campaigns.base import Figures, Limits
from torture.feeder import Feeding
from torture.plant import Plant
from torture.proxy import Proxy, proxy_to
from torture.server import TortureServer
from torture.server_states import busy, configured, replica, unable_to_save
from worker.scripts import source

WORKERS = 2
FEEDERS = 2
RATE_HZ = 60.0
# The shortest that a setting allows: some states outlast it, and workers lose their jobs to each other.
LEASE_S = 2
# How long a state lasts: one of these. How long the plant is left alone after it, at most.
STATES_S = (0.3, 0.6, 1.0, 3.0)
MAX_REST_S = 0.6
LINK_DELAY_S = 0.1
CUT_SHARE = 0.5
# The calls that are made again when their answer was lost, as they are sent: a producer's, then a worker's.
REPEATED = (
    b"$4\r\nEXEC\r\n",
    b"$4\r\nMGET\r\n",
    *(hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest().encode() for name in ("claim", "finish")),
)
ANSWERED_S = 1.5  # what is repeated has its answer: a loss before would take what the server remembers of the call
ANSWERS_LOST = 4  # more than one: the first repetition is made at once, and raises nothing


@dataclass(frozen=True, slots=True)
class Target:
    """What a fault acts on."""

    plant: Plant
    server: TortureServer
    proxy: Proxy

    def state_s(self) -> float:
        """How long a state lasts."""
        return self.plant.random.choice(STATES_S)

    def last(self) -> None:
        """Wait for as long as a state lasts."""
        time.sleep(self.state_s())


def server(plant: Plant, limits: Limits) -> Figures:
    """One fault after the other, in a random order, until the time is over and each has had its turn.

    The append-only file is synced before each answer, so that a kill of the server loses nothing.

    Raises:
        BadSetting: the server belongs to somebody else.
    """
    if plant.server is None:
        raise BadSetting("the campaign `server` kills its server: leave --redis-url out, so that it has its own.")
    proxy = plant.enter(proxy_to(plant.settings.redis_url))
    linked = plant.settings.model_copy(update={"redis_url": proxy.url, "lease_s": LEASE_S})
    plant.start_workers(WORKERS, linked)
    plant.start_feeders([Feeding(rate_hz=RATE_HZ)] * FEEDERS, linked)
    target = Target(plant, plant.server, proxy)
    counts: Counter[str] = Counter()
    until = time.monotonic() + limits.seconds
    while time.monotonic() < until or len(counts) < len(FAULTS):
        round_of_faults = plant.random.sample(list(FAULTS), len(FAULTS))
        for name in round_of_faults:
            if time.monotonic() > until and len(counts) == len(FAULTS):
                break
            plant.options.say(f"{name} ({counts.total() + 1})")
            FAULTS[name](target)
            counts[name] += 1
            time.sleep(plant.random.uniform(0, MAX_REST_S))
    return dict(sorted(counts.items()))


# faults ────────────────────────────────────────────────────────────────────────────────────────────


def _kill_and_restart(target: Target) -> None:
    target.server.kill()
    target.last()
    target.server.start()


def _restart_empty(target: Target) -> None:
    target.plant.lose("restarted empty", target.server.restart_empty)


def _flush_all(target: Target) -> None:
    target.plant.lose("FLUSHALL", target.plant.client.flushall)


def _kill_clients(target: Target) -> None:
    target.plant.client.client_kill_filter(_type="normal", skipme=True)


def _pause_clients(target: Target) -> None:
    target.plant.client.client_pause(int(1000 * target.state_s()), all=True)
    target.plant.client.ping()  # answered when the pause is over


def _pause_writes(target: Target) -> None:
    target.plant.client.client_pause(int(1000 * target.state_s()), all=False)
    target.last()


def _flush_scripts(target: Target) -> None:
    target.plant.client.script_flush()


def _fill_memory(target: Target) -> None:
    used_bytes = target.plant.client.info("memory")["used_memory"]
    with configured(target.plant.client, "maxmemory", str(used_bytes // 2)):
        target.last()


def _fail_to_save(target: Target) -> None:
    with unable_to_save(target.plant.client):
        target.last()


def _be_a_replica(target: Target) -> None:
    with replica(target.plant.client):
        target.last()


def _run_a_long_script(target: Target) -> None:
    with busy(target.plant.client):
        target.last()


def _refuse_clients(target: Target) -> None:
    """All are cut off, and no more than one of them may come back for a while."""
    client = target.plant.client
    with configured(client, "maxclients", str(len(client.client_list()) + 1)):
        target.proxy.cut_all()
        crowd = [target.server.client() for _ in range(client.info("clients")["maxclients"])]
        with contextlib.ExitStack() as stack:
            for each in crowd:
                stack.enter_context(each)
                with contextlib.suppress(Exception):
                    each.ping()
            target.last()


def _stop_the_process(target: Target) -> None:
    target.server.pause_process()
    try:
        target.last()
    finally:
        target.server.resume_process()


def _slow_links(target: Target) -> None:
    links = (target.proxy.to_server, target.proxy.to_client)
    for link in links:
        link.delay_s = LINK_DELAY_S
    target.last()
    for link in links:
        link.delay_s = 0.0


def _stall_links(target: Target) -> None:
    target.proxy.stall()
    target.last()
    target.proxy.resume()


def _cut_links(target: Target) -> None:
    target.proxy.cut_share(CUT_SHARE, target.plant.random)


def _refuse_links(target: Target) -> None:
    target.proxy.refuse()
    target.proxy.cut_all()
    target.last()
    target.proxy.accept()


def _drop_answers(target: Target) -> None:
    """Of each kind of call whose repetition must find out what the first did; and of some others."""
    for marker in REPEATED:
        target.proxy.drop_answers(ANSWERS_LOST, to=marker)
    target.proxy.drop_answers(ANSWERS_LOST)
    time.sleep(ANSWERED_S)


FAULTS: dict[str, Callable[[Target], None]] = {
    "killed, restarted with its append-only file": _kill_and_restart,
    "restarted empty": _restart_empty,
    "FLUSHALL": _flush_all,
    "CLIENT KILL": _kill_clients,
    "CLIENT PAUSE": _pause_clients,
    "CLIENT PAUSE WRITE": _pause_writes,
    "SCRIPT FLUSH": _flush_scripts,
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
