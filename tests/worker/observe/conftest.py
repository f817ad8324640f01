"""Fixtures for the tests of metrics, probes and watchdog."""

from __future__ import annotations

import pytest

from shared.server.connection import connect
from shared.settings import Settings
from worker.observe.queue_gauges import QueueGauges


@pytest.fixture
def gauges(settings: Settings) -> QueueGauges:
    return QueueGauges(connect(settings.redis_url), queues=["live", "bulk"])
