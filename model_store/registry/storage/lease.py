"""One writer at a time where there is no file lock: a lease on a model in an object store.

A writer writes a claim of its own, then lists all claims. It has the lease when no other claim is alive;
else it takes its own back and tries again later. Of two that write at the same moment, at least the one that
lists last sees both: so never two have the lease, and no exclusive creation is needed, which drivers and
servers honour only in part (s3fs ignored it for small files until 2025; many S3 servers don't know it). What is
needed is that a listing shows what was written before it: S3, Google's, Azure's and MinIO's do.

The holder renews its claim from a thread. A claim that has not changed for `ttl_s` by the watcher's own clock
is dead, so clocks need not agree. The holder stops writing when its last renewal is `ttl_s / 2` old.

The limit: a holder that is stopped (suspended, not killed) for longer than `ttl_s / 2` between looking at its
clock and the write that follows still makes that one write, of one object. It can undo another writer's
promotion, or change a file of a bundle that another uploads under the same number, which the digests show.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from model_store.registry.storage.object_client import Objects
from shared.errors import StoreUnavailable

log = logging.getLogger("sortline.store")

CLAIM_PREFIX = ".claim-"
# After this long without a sign of life a writer is taken for dead. Long enough for several lost renewals, short
# enough to wait for.
LEASE_TTL_S = 60.0

_RENEWALS_PER_TTL = 6
# Between two looks at another's claim, at random, so that two writers don't step aside for each other for ever.
_PAUSE_S = (0.05, 0.5)


class Lease:
    """The right to change one model, while `held`. Belongs to one `with`."""

    def __init__(
        self,
        objects: Objects,
        folder: str,
        *,
        ttl_s: float = LEASE_TTL_S,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """On the model whose folder is `folder`."""
        self._objects = objects
        self._folder = folder
        self._ttl_s = ttl_s
        self._clock = clock
        self._pause = pause
        self._claim = f"{CLAIM_PREFIX}{uuid.uuid4().hex}"
        self._renewed_at = 0.0  # by the clock
        self._renewals = 0
        self._ended = threading.Event()
        # The others' claims: what they held, and when that was first seen, by the clock.
        self._seen: dict[str, tuple[bytes, float]] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lease, and renew it until the end of the `with`.

        Raises:
            StoreUnavailable: the place can't be read or written.
        """
        self._acquire()
        renewer = threading.Thread(target=self._renew_until_ended, name="store-lease", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            self._ended.set()
            renewer.join()
            self._give_back()

    def check(self) -> None:
        """Make sure that the lease is still ours: before every write.

        Raises:
            StoreUnavailable: it was not renewed in time; another writer may have it.
        """
        if self._silent_s() > self._ttl_s / 2:
            raise StoreUnavailable(
                f"{self._where()}: lost the right to change it, not renewed for {self._silent_s():.0f} s. "
                "Nothing more was changed; try again."
            )

    def _acquire(self) -> None:
        waited = False
        while True:
            if (other := self._other()) is None:
                self._renew()
                if (other := self._other()) is None:
                    return
                self._objects.delete(self._path(self._claim))
            if not waited:
                log.warning("%s: waiting for another writer: %s", self._where(), other)
                waited = True
            self._pause(random.uniform(*_PAUSE_S))  # noqa: S311  # no secret

    def _other(self) -> str | None:
        """What some other living claim says; deletes the dead ones."""
        for claim in self._objects.entries(self._folder):
            if not claim.startswith(CLAIM_PREFIX) or claim == self._claim:
                continue
            content = self._objects.read(self._path(claim))
            if content is None:
                continue
            if claim not in self._seen or self._seen[claim][0] != content:
                self._seen[claim] = (content, self._clock())
            unchanged_s = self._clock() - self._seen[claim][1]
            text = content.decode(errors="replace")
            if unchanged_s <= self._ttl_s:
                return text
            log.warning("%s: clearing away the claim of a writer that died: %s", self._where(), text)
            self._objects.delete(self._path(claim))
        return None

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(self._ttl_s / _RENEWALS_PER_TTL):
            if self._silent_s() > self._ttl_s / 2:
                return  # lost: it must not come to life again beside another's
            try:
                self._renew()
            except StoreUnavailable as error:
                log.warning("%s: lease not renewed: %s", self._where(), error)

    def _renew(self) -> None:
        started = self._clock()
        self._renewals += 1
        owner = {
            "owner": f"{socket.gethostname()}:{os.getpid()}",
            "at": round(time.time(), 3),
            "renewals": self._renewals,
            "expires_after_s": self._ttl_s,
        }
        self._objects.put(self._path(self._claim), json.dumps(owner).encode())
        self._renewed_at = started

    def _silent_s(self) -> float:
        return self._clock() - self._renewed_at

    def _give_back(self) -> None:
        try:
            self._objects.delete(self._path(self._claim))
        except StoreUnavailable as error:
            log.warning("%s: claim left behind, good for %.0f s more: %s", self._where(), self._ttl_s, error)

    def _path(self, file: str) -> str:
        return f"{self._folder}/{file}"

    def _where(self) -> str:
        return f"{self._objects.where}/{self._folder}"
