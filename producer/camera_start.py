"""Starts a camera: checks its options, opens its source, logs what it is about to do. Called by `sortline camera`."""

from __future__ import annotations

import logging
from contextlib import closing, suppress

from producer import display
from producer.camera import Camera
from producer.camera_options import CameraOptions, TooOld, WhenFull
from producer.camera_summary import CameraSummary
from producer.folder_camera import FolderFlags, open_folder
from producer.frames import check_names
from producer.signals import stop_on_signals
from producer.simulated_camera import SimulatorFlags, open_simulated
from producer.sources.base import SIMULATED, Source, check_unused
from producer.submit import LineProducer
from shared.errors import BadSetting, RedisUnavailable
from shared.masking import masked
from shared.server.connection import check, connect
from shared.settings import Settings

log = logging.getLogger("producer.camera")


def run_camera(
    options: CameraOptions,
    source: str,
    *,
    simulator: SimulatorFlags,
    folder: FolderFlags,
    settings: Settings,
    metrics_port: int | None,
) -> CameraSummary:
    """Run a camera until it has sent its frames, or Ctrl-C or SIGTERM stops it. Call it in the main thread.

    Args:
        options: what is sent, and where to.
        source: `simulated`, or a folder.
        simulator, folder: the flags of each kind of source; those of the other kind must have their defaults.
        settings: name the server.
        metrics_port: serve the metrics there, 0 for any free port; None: serve none.

    Raises:
        BadSetting: an option can't be used. Nothing was sent.
        BadSetting, CommandRefused: as `Camera.run`.
    """
    check_names(line=options.line, camera=options.camera, queue=options.queue)
    if source == SIMULATED:
        check_unused(folder, applies_to="a folder", source=source)
    else:
        check_unused(simulator, applies_to=f"the source {SIMULATED!r}", source=source)
    if options.too_old is TooOld.EXPIRE and options.max_age_s is None:
        raise BadSetting("--too-old expire needs --max-age, the age in seconds above which a frame is too old.")
    with suppress(RedisUnavailable):  # the camera waits for the server
        check(connect(settings.redis_url), settings.redis_url)
    metrics_url = None if metrics_port is None else _serve_metrics(settings, metrics_port)
    frames: Source
    if source == SIMULATED:
        frames = open_simulated(simulator, line=options.line, count=options.count, rate_hz=options.rate_hz)
    else:
        unread_age_s = options.max_age_s if options.too_old is TooOld.SKIP else None
        frames = open_folder(source, folder, settings, line=options.line, camera=options.camera, max_age_s=unread_age_s)
    log_start(options, frames, redis_url=settings.redis_url, metrics_url=metrics_url)
    with (
        closing(frames),
        closing(LineProducer(settings)) as producer,
        stop_on_signals() as stop,
        display.camera_status(options) as on_progress,
    ):
        return Camera(options, frames, producer, stop=stop, on_progress=on_progress).run()


def _serve_metrics(settings: Settings, port: int) -> str:
    from producer import metrics  # imported here because most cameras serve no metrics

    return metrics.serve(settings.metrics_host, port).url


def _deadline(options: CameraOptions) -> str:
    if options.deadline_ms is None:
        return f"no deadline ({options.deadline_source})" if options.deadline_source else "no deadline"
    source = f": {options.deadline_source}" if options.deadline_source else ""
    return f"deadline {options.deadline_ms:g} ms after capture{source}"


def log_start(options: CameraOptions, source: Source, *, redis_url: str, metrics_url: str | None) -> None:
    """Log in two lines what a camera is about to send: its source; the rate, queue, server, deadline and metrics.

    The password in `redis_url` is masked.
    """
    count = "frames" if options.count is None else f"{options.count:,} frame{'s' if options.count > 1 else ''}"
    pace = f"{options.rate_hz:g} per second" if options.rate_hz else "as fast as possible"
    facts = [f"{count}, {pace}, to queue {options.queue} at {masked(redis_url)}"]
    facts.append(_deadline(options))
    if options.when_full is WhenFull.BLOCK:
        facts.append("waits while the queue is full (--when-full block)")
    if options.max_age_s is not None:
        end = "answered `expired`" if options.too_old is TooOld.EXPIRE else "not sent"
        facts.append(f"frames older than {options.max_age_s:g} s are {end}")
    facts.append(f"metrics on {metrics_url}" if metrics_url else "no metrics (--metrics-port serves them)")
    log.info("line %s: camera %s: %s", options.line, options.camera, source.describe())
    log.info("line %s: camera %s: %s", options.line, options.camera, "; ".join(facts))
