"""Run as a program: `python -m bench.peers.celery_worker [--null]`, a Celery worker until SIGTERM."""

from __future__ import annotations

import argparse

from bench.peers.celery_app import celery_app
from model_store.registry.store import open_store
from shared.cpu_cores import usable_cores
from shared.settings import load_settings

# Turns off messages between workers: there is only one.
_ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")


def main() -> None:
    """Work for the server that the settings name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--null", action="store_true", help="answer at once, without a model")
    settings, is_null = load_settings(), parser.parse_args().null
    if not is_null:  # fail here: Celery only logs errors in its pool, and would leave the images without an answer
        open_store(settings).open(settings.model)
    app = celery_app(settings, null=is_null)
    app.worker_main(
        ["worker", "--pool", "prefork", "--concurrency", str(usable_cores()), "--loglevel", "WARNING", *_ALONE]
    )


if __name__ == "__main__":
    main()
