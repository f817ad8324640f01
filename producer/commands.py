"""`sortline camera`, `sortline upload`, `sortline results`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.cli import JsonFlag, RedisUrl

if TYPE_CHECKING:
    from producer.sources.base import Source
    from producer.upload import Row

# Above this rate the simulator draws its pool before the camera starts. One drawing takes about 20 ms of a core, which
# a worker on the same machine would lack.
_DRAW_AHEAD_HZ = 2.0
_SIMULATED_HZ = 10.0
# The headings of the options that apply to one kind of source only.
_SIMULATED_PANEL = "Options of simulated frames"
_FOLDER_PANEL = "Options of a folder"
_WEEK_S = 604_800.0  # the longest deadline of a job


class TooOld(StrEnum):
    """What happens to a frame that is older than --max-age."""

    SKIP = "skip"
    EXPIRE = "expire"


def add_to(app: typer.Typer) -> None:
    """Add this package's commands."""
    app.command("camera")(camera)
    app.command("upload")(upload)
    app.command("results")(results)


def camera(
    line: Annotated[str, typer.Option(help="the sorting line, e.g. line-1")],
    source: Annotated[str, typer.Option(help="`simulated`, or a folder of image files (docs/cameras.md)")],
    name: Annotated[str, typer.Option("--camera", help="name of the camera on that line")] = "camera-1",
    rate: Annotated[
        float | None,
        typer.Option(
            min=0, max=1e6, help="frames per second; 0: as fast as possible (default: 10 if simulated, 0 for a folder)"
        ),
    ] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option(min=0.001, max=_WEEK_S * 1000, help="milliseconds after capture by which the result is needed"),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="end after this many frames (default: never)")] = None,
    queue: Annotated[str, typer.Option(help="queue to put the images on")] = "live",
    size: Annotated[str, typer.Option(help="frame size, WIDTHxHEIGHT", rich_help_panel=_SIMULATED_PANEL)] = "640x480",
    quality: Annotated[int, typer.Option(help="JPEG quality, 1 to 95", rich_help_panel=_SIMULATED_PANEL)] = 85,
    seed: Annotated[
        int, typer.Option(help="the same seed and line give the same frames", rich_help_panel=_SIMULATED_PANEL)
    ] = 0,
    pool: Annotated[
        int, typer.Option(help="number of different frames, replayed in turn", rich_help_panel=_SIMULATED_PANEL)
    ] = 240,
    replay: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="draw this many frames before sending any, then send them over and over",
            rich_help_panel=_SIMULATED_PANEL,
        ),
    ] = None,
    encoder_per_frame: Annotated[
        int | None, typer.Option(help="encoder counts that the belt moves from one frame to the next")
    ] = None,
    max_age: Annotated[
        float | None,
        typer.Option(min=0.001, max=_WEEK_S, help="seconds after capture when a frame is too old (default: never)"),
    ] = None,
    too_old: Annotated[
        TooOld, typer.Option(help="frames that are too old: not sent, or sent for the result `expired`")
    ] = TooOld.SKIP,
    stamp_pattern: Annotated[
        str | None,
        typer.Option(
            help="form of the capture time in a file's name, e.g. %Y%m%d_%H%M%S_%f (default: the file's time)",
            rich_help_panel=_FOLDER_PANEL,
        ),
    ] = None,
    capture_lag_ms: Annotated[
        float,
        typer.Option(
            min=0, max=3_600_000, help="milliseconds from capture to the file's time", rich_help_panel=_FOLDER_PANEL
        ),
    ] = 0.0,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="read its sub-folders too", rich_help_panel=_FOLDER_PANEL)
    ] = False,
    only_new: Annotated[
        bool,
        typer.Option(
            "--only-new", help="pass over the files that are there at the start", rich_help_panel=_FOLDER_PANEL
        ),
    ] = False,
    move_to: Annotated[
        Path | None, typer.Option(help="move accepted files to this folder", rich_help_panel=_FOLDER_PANEL)
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="delete accepted files", rich_help_panel=_FOLDER_PANEL)
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="port to serve /metrics on; 0: a free port (default: none)")
    ] = None,
    redis_url: RedisUrl = None,
    as_json: JsonFlag = False,
) -> None:
    """Send the frames of one camera to a queue, at a steady rate, until stopped.

    A folder's new images are sent as soon as they are complete, and before those that were there at the start.
    Each is sent once, also after a restart; an overwritten file is a new image.
    The time of capture is the file's time of modification, or a stamp in its name.
    If the queue is full, a frame is dropped, counted and named in the log. Ctrl-C ends the camera with a summary.

    Example: sortline camera --line line-1 --source simulated --rate 30 --deadline-ms 120
    """
    from contextlib import suppress

    from producer import display
    from producer.camera import Camera, CameraOptions
    from producer.camera_start import log_start
    from producer.folder_camera import FolderFlags, open_folder
    from producer.signals import stop_on_signals
    from producer.simulated_camera import SimulatorFlags, open_simulated
    from producer.sources.base import SIMULATED, check_unused
    from producer.submit import LineProducer, check_names
    from shared.cli import print_json, setup_logging
    from shared.errors import BadSetting, RedisUnavailable
    from shared.server.connection import check, connect
    from shared.settings import load_settings

    settings = load_settings(redis_url=redis_url)
    setup_logging(settings)
    folder_flags = FolderFlags(
        stamp_pattern=stamp_pattern,
        capture_lag_ms=capture_lag_ms,
        recursive=recursive,
        only_new=only_new,
        move_to=move_to,
        delete=delete,
    )
    check_names(line=line, camera=name, queue=queue)
    simulator_flags = SimulatorFlags(size=size, quality=quality, seed=seed, pool=pool, replay=replay)
    is_simulated = source == SIMULATED
    if is_simulated:
        check_unused(folder_flags, applies_to="a folder", source=source)
    else:
        check_unused(simulator_flags, applies_to="the source 'simulated'", source=source)
    if too_old is TooOld.EXPIRE and max_age is None:
        raise BadSetting("--too-old expire needs --max-age, the age in seconds above which a frame is too old.")
    with suppress(RedisUnavailable):  # the camera waits for the server
        check(connect(settings.redis_url), settings.redis_url)
    if rate is None:
        rate = _SIMULATED_HZ if is_simulated else 0.0
    options = CameraOptions(
        line=line,
        camera=name,
        rate_hz=rate,
        deadline_ms=deadline_ms,
        count=count,
        queue=queue,
        encoder_per_frame=encoder_per_frame,
        max_age_s=max_age,
        expire_too_old=too_old is TooOld.EXPIRE,
    )
    metrics_url = None
    if metrics_port is not None:
        from producer import metrics

        metrics_url = metrics.serve(settings.metrics_host, metrics_port).url
    frames: Source
    if is_simulated:
        draw_first = replay is not None or not 0 < rate <= _DRAW_AHEAD_HZ
        frames = open_simulated(simulator_flags, line=line, count=count, draw_first=draw_first)
    else:
        unread_age_s = max_age if too_old is TooOld.SKIP else None
        frames = open_folder(source, folder_flags, settings, line=line, camera=name, max_age_s=unread_age_s)
    log_start(options, frames, redis_url=settings.redis_url, metrics_url=metrics_url)
    with (
        closing(frames),
        closing(LineProducer(settings)) as producer,
        stop_on_signals() as stop,
        display.camera_status(options) as on_progress,
    ):
        summary = Camera(options, frames, producer, stop=stop, on_progress=on_progress).run()
    if as_json:
        print_json(asdict(summary))
    else:
        display.show_camera(summary)


def upload(
    paths: Annotated[list[Path], typer.Argument(help="image files, folders of them, or zip archives")],
    line: Annotated[str, typer.Option(help="line to file the results under")] = "upload",
    queue: Annotated[str, typer.Option(help="queue to put the images on")] = "bulk",
    wait: Annotated[bool, typer.Option("--wait", help="wait for the results")] = False,
    out: Annotated[Path | None, typer.Option(help="CSV file to write, with one row per file")] = None,
    timeout: Annotated[float, typer.Option(help="give up after this many seconds without any progress")] = 120.0,
    redis_url: RedisUrl = None,
    as_json: JsonFlag = False,
) -> None:
    """Put image files onto a queue and, with --wait, collect the result of each file.

    Folders and zip archives are searched for files; links are followed, and hidden files are skipped. The CSV has one
    row for each file. A file that is not an image is `rejected`, with the reason, and not sent. While the queue is
    full, the command waits. The exit code is 0 if every file has its result or, without --wait, is on the queue (a
    rejection is a result); 1 if a result is missing or a job failed; 2 for a setting that can't be used, or if the
    server refuses e.g. the login.

    Example: sortline upload photos/ more.zip --wait --out results.csv
    """
    from producer import display
    from producer.upload import Uploader, UploadOptions, all_answered
    from producer.upload_inputs import list_inputs
    from shared.errors import BadInput, NotFound
    from shared.output_files import check_output_files
    from shared.server.connection import check, connect
    from shared.settings import load_settings

    settings = load_settings(redis_url=redis_url)
    inputs = list(list_inputs(paths))
    if not inputs:
        raise NotFound(
            f"no file to send in {', '.join(map(str, paths))}: name image files, folders of them, or zip archives."
        )
    check_output_files({"--out": out}, inputs=paths)
    # At the start an unavailable server is an error; later the upload waits for the server.
    check(connect(settings.redis_url), settings.redis_url)
    options = UploadOptions(line=line, queue=queue, wait=wait, timeout_s=timeout)
    refused: BadInput | None = None
    with display.upload_bar(len(inputs), wait=wait) as on_progress:
        uploader = Uploader(options, settings, on_progress=on_progress)
        try:
            uploader.run(inputs)
        except BadInput as error:  # raised again below, after the outcome of each file is shown
            refused = error
        except BaseException:  # interrupted: write what is known so far
            _write_rows(uploader.rows, out)
            raise
    if as_json or uploader.rows:  # there are no rows if the name of the line or queue can't be used
        display.show_upload(uploader.rows, as_json=as_json)
    _write_rows(uploader.rows, out)
    if out is not None and not as_json:
        print(f"one row for each file: {out}")
    if refused is not None:
        raise refused
    raise typer.Exit(0 if all_answered(uploader.rows) else 1)


def _write_rows(rows: list[Row], out: Path | None) -> None:
    from producer.upload import write_csv

    if out is not None:
        write_csv(rows, out)


def results(
    line: Annotated[str | None, typer.Option(help="only this line (default: all)")] = None,
    job: Annotated[list[str] | None, typer.Option(help="only this job; may be given several times")] = None,
    outcome: Annotated[
        list[str] | None, typer.Option(help="only this outcome, e.g. late; may be given several times")
    ] = None,
    lane: Annotated[list[str] | None, typer.Option(help="only this lane; may be given several times")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="go on showing results as they come, until Ctrl-C")] = False,
    count: Annotated[int, typer.Option(min=0, help="number of latest results to show first")] = 20,
    redis_url: RedisUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV, with a header")] = False,
) -> None:
    """Show the latest results and, with --follow, new ones as they come.

    The columns: when the result was made (UTC); line/camera; the frame's number or file; the outcome; the lane that
    the bottle goes to; `margin`, the time that was left to the deadline, negative if the result came too late, empty if
    there is no deadline; the labels with their probabilities, or the error. --json prints each result as the worker
    wrote it, --csv the same values as columns.

    --follow waits while the server is unavailable, and says so on standard error. If the server has lost a line's
    results, their stream is read again from its beginning.

    Example: sortline results --line line-1 --outcome late --outcome expired --follow
    """
    import threading

    from producer import display
    from producer.result_filter import ResultFilter
    from producer.signals import ended_by_signals
    from producer.streams.reader import ResultReader
    from shared.errors import BadSetting
    from shared.settings import load_settings

    if as_json and as_csv:
        raise BadSetting("--json and --csv are two forms of the same results: give one of them.")
    settings = load_settings(redis_url=redis_url)
    wanted = ResultFilter(jobs=job or (), outcomes=outcome or (), lanes=lane or ())
    reader = ResultReader(
        settings,
        line=line,
        only=wanted if wanted.is_set else None,
        drop_duplicates=False,
        on_notice=lambda notice: display.note(notice.text),
    )
    with closing(reader), ended_by_signals():
        known = [] if follow else reader.last(count)
        show = display.result_printer(known, as_json=as_json, as_csv=as_csv)  # CSV has its header without results too
        if not follow and not known and count:
            display.note(
                f"no results{f' of line {line}' if line else ''}{wanted.described}{'' if wanted.is_set else ' yet'}."
            )
        for result in reader.follow(threading.Event(), latest=count) if follow else known:
            show(result)
