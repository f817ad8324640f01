"""A lease on a model in an object store: it allows one writer at a time without a file lock.

A writer writes a claim of its own, then lists all claims. It has the lease if no other claim is alive; otherwise it
deletes its own claim and tries again later. When two writers write at the same moment, at least the one that lists
last sees both claims. So two writers never have the lease at once. This needs no exclusive creation of objects, which
drivers and servers support only in part (s3fs ignored it for small files until 2025; many S3 servers don't support it).
The only requirement is that a listing shows everything that was written before it, which holds on S3, Google Cloud
Storage, Azure and MinIO.

The holder renews its claim from a thread. A waiting writer considers a claim dead when it has not changed for `ttl_s`
by the waiting writer's own clock, so clocks need not agree. The holder stops writing when its last renewal is
`ttl_s / 2` old.

A known limit: if a holder is suspended (not killed) for longer than `ttl_s / 2` between reading its clock and the write
that follows, it still makes that one write, of one object. That write can undo another writer's promotion, or change a
file of a bundle that another writer is uploading under the same number; the digests reveal the change.
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

from model_store.registry.storage.object_client import ObjectClient
from shared.errors import StoreUnavailable

log = logging.getLogger("sortline.store")

CLAIM_PREFIX = ".claim-"
# A writer that has not renewed its claim for this long is considered dead. This is long enough to survive several lost
# renewals, and short enough for another writer to wait.
LEASE_TTL_S = 60.0

_RENEWALS_PER_TTL = 6
# A random delay before the claims are listed again, so that two writers don't give way to each other for ever.
_RETRY_DELAY_S = (0.05, 0.5)


class Lease:
    """The exclusive right to change one model, inside `with lease.held()`. Each Lease can be used once."""

    def __init__(
        self,
        objects: ObjectClient,
        folder: str,
        *,
        ttl_s: float = LEASE_TTL_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """A lease on the model whose folder is `folder`."""
        self._objects = objects
        self._folder = folder
        self._ttl_s = ttl_s
        self._clock = clock
        self._sleep = sleep
        self._claim = f"{CLAIM_PREFIX}{uuid.uuid4().hex}"
        self._renewed_at = 0.0  # by the clock
        self._renewals = 0
        self._released = threading.Event()
        # The last content of each other claim, and when it was first seen, by the clock.
        self._seen: dict[str, tuple[bytes, float]] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lease, and renew it until the end of the `with` block.

        Raises:
            StoreUnavailable: the storage can't be read or written.
        """
        self._acquire()
        renewer = threading.Thread(target=self._renew_until_released, name="store-lease", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            self._released.set()
            renewer.join()
            self._release()

    def check(self) -> None:
        """Make sure that the lease is still held; called before every write.

        Raises:
            StoreUnavailable: the lease was not renewed in time; another writer may hold it.
        """
        if self._since_renewal_s() > self._ttl_s / 2:
            raise StoreUnavailable(
                f"{self._location()}: lost the lease, which was not renewed for {self._since_renewal_s():.0f} s. "
                "Nothing was changed after that; try again."
            )

    def _acquire(self) -> None:
        waited = False
        while True:
            if (other := self._living_claim_of_another()) is None:
                self._renew()
                if (other := self._living_claim_of_another()) is None:
                    return
                self._objects.delete(self._path(self._claim))
            if not waited:
                log.warning("%s: waiting for another writer: %s", self._location(), other)
                waited = True
            self._sleep(random.uniform(*_RETRY_DELAY_S))  # noqa: S311  # no secret

    def _living_claim_of_another(self) -> str | None:
        """The content of another writer's living claim, or None; deletes dead claims."""
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
            log.warning("%s: deleting the claim of a writer that died: %s", self._location(), text)
            self._objects.delete(self._path(claim))
        return None

    def _renew_until_released(self) -> None:
        while not self._released.wait(self._ttl_s / _RENEWALS_PER_TTL):
            if self._since_renewal_s() > self._ttl_s / 2:
                return  # the lease is lost: renewing the claim now would revive it while another writer holds the lease
            try:
                self._renew()
            except StoreUnavailable as error:
                log.warning("%s: lease not renewed: %s", self._location(), error)

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

    def _since_renewal_s(self) -> float:
        return self._clock() - self._renewed_at

    def _release(self) -> None:
        try:
            self._objects.delete(self._path(self._claim))
        except StoreUnavailable as error:
            log.warning(
                "%s: the claim was not deleted, other writers wait for it for %.0f s: %s",
                self._location(),
                self._ttl_s,
                error,
            )

    def _path(self, file: str) -> str:
        return f"{self._folder}/{file}"

    def _location(self) -> str:
        return f"{self._objects.location}/{self._folder}"
