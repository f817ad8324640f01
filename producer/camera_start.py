"""Logs what a camera is about to do. Called by `sortline camera`."""

from __future__ import annotations

import logging

from producer.camera import CameraOptions
from producer.sources.base import Source
from shared.settings import masked

log = logging.getLogger("producer.camera")


def log_start(options: CameraOptions, source: Source, *, redis_url: str, metrics_url: str | None) -> None:
    """Log in two lines what a camera is about to send: its source; the rate, queue, server, deadline and metrics.

    The password in `redis_url` is masked.
    """
    count = "frames" if options.count is None else f"{options.count:,} frames"
    pace = f"{options.rate_hz:g} per second" if options.rate_hz else "as fast as possible"
    facts = [f"{count}, {pace}, to queue {options.queue} at {masked(redis_url)}"]
    facts.append("no deadline" if options.deadline_ms is None else f"deadline {options.deadline_ms:g} ms after capture")
    if options.max_age_s is not None:
        end = "answered `expired`" if options.expire_too_old else "not sent"
        facts.append(f"frames older than {options.max_age_s:g} s are {end}")
    facts.append(f"metrics at {metrics_url}" if metrics_url else "no metrics (--metrics-port serves them)")
    log.info("line %s: camera %s: %s", options.line, options.camera, source.describe())
    log.info("line %s: camera %s: %s", options.line, options.camera, "; ".join(facts))
