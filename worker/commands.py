"""`sortline worker`."""

from __future__ import annotations

from typing import Annotated

import typer

from shared.cli import RedisUrl


def add_to(app: typer.Typer) -> None:
    """Add `worker`."""
    app.command("worker")(worker)


def worker(
    queues: Annotated[str | None, typer.Option(help="queues to work on, most urgent first, e.g. live,bulk")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="model to serve: NAME or NAME@VERSION (default: bottles, or the only model in the store)"),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="auto, litert, litert-fp32, tensorflow or tensorflow-mixed")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="most images in one batch")] = None,
    linger_ms: Annotated[float | None, typer.Option(help="how long an idle model waits for more images, ms")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="port of /metrics, /healthz, /readyz; 0: a free one")] = None,
    redis_url: RedisUrl = None,
    burst: Annotated[bool, typer.Option("--burst", help="end when the queues are empty")] = False,
) -> None:
    """Sort the images of the queues, in batches, until stopped.

    On SIGTERM or Ctrl-C the worker finishes the jobs it holds and ends; on a second one it gives them back to their
    queues and quits. A worker that crashes, hangs or is killed is started again.

    Example: sortline worker --queues live,bulk --max-batch 16
    """
    import os

    from shared.cli import setup_logging
    from shared.settings import load_settings
    from worker.parent.handover import Handover
    from worker.service import WorkerService

    handover = Handover.take_from(os.environ)  # first, because its variables are not settings and would be reported
    settings = load_settings(
        queues=queues,
        model=model,
        engine=engine,
        max_batch=max_batch,
        linger_ms=linger_ms,
        metrics_port=metrics_port,
        redis_url=redis_url,
    )
    setup_logging(settings)
    raise typer.Exit(WorkerService(settings, burst=burst, handover=handover).run())
