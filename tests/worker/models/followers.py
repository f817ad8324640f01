"""A worker's follower with what it needs, and short ways to look at what it has done."""

from __future__ import annotations

from pathlib import Path

from model_store.registry.canary import Canary
from model_store.registry.store import open_store
from shared.server.connection import connect
from shared.settings import Settings
from tests.worker.models.versions import NAME
from worker.canary.tally import CanaryTally
from worker.models.follower import Follower, VersionSource
from worker.models.loading import as_model, load_bundle, load_model
from worker.models.model import Model
from worker.models.routing import ActiveModels, Serving
from worker.observe.metrics import Metrics


class Post:
    """One worker's follower; its thread is not started: the tests call `follower.poll()`."""

    def __init__(self, settings: Settings, *, store: VersionSource | None = None) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.loaded: list[int] = []
        self.cannot_load: Exception | None = None
        self.now = 1000.0
        first = as_model(load_model(settings), settings, worker="w1")
        self.active_models = ActiveModels(Serving(first), metrics=self.metrics)
        self.tally = CanaryTally(connect(settings.redis_url), name=NAME, maxlen=100)
        self.follower = Follower(
            self.active_models,
            store=store or open_store(settings),
            tally=self.tally,
            load=self._load,
            metrics=self.metrics,
            poll_s=settings.store_poll_s,
            clock=lambda: self.now,
        )

    def _load(self, folder: Path) -> Model:
        self.loaded.append(int(folder.name))
        if self.cannot_load is not None:
            raise self.cannot_load
        bundle = open_store(self.settings).open_fetched(folder)
        return as_model(load_bundle(bundle, self.settings, background=True), self.settings, worker="w1")

    @property
    def stable(self) -> int:
        return self.active_models.current.stable.version

    @property
    def canary(self) -> Canary | None:
        return self.active_models.current.canary.spec if self.active_models.current.canary else None

    def sample(self, metric: str, /, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0

    def swaps(self, result: str) -> float:
        return self.sample("sortline_model_swaps_total", result=result)
