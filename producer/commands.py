"""`sortline camera`, `sortline upload`, `sortline results`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from producer.camera_options import CameraOptions, TooOld, WhenFull
from producer.sources.base import SIMULATED
from shared.cli import JsonFlag, RedisUrl

_SIMULATED_HZ = 10.0
# The headings of the options that apply to one kind of source only.
_SIMULATED_PANEL = "Options of simulated frames"
_FOLDER_PANEL = "Options of a folder"
_TIME_PANEL = "Deadlines and old frames"
_WEEK_S = 604_800.0  # the longest deadline of a job


def add_to(app: typer.Typer) -> None:
    """Add this package's commands."""
    app.command("camera")(camera)
    app.command("upload")(upload)
    app.command("results")(results)


def camera(
    line: Annotated[str, typer.Option(help="the sorting line, e.g. line-1")],
    source: Annotated[str, typer.Option(help=f"`{SIMULATED}`, or a folder of image files (docs/cameras.md)")],
    name: Annotated[str, typer.Option("--camera", help="name of the camera on that line")] = "camera-1",
    rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1e6,
            help=(
                "frames per second; 0: as fast as possible (default: 10 if simulated; 0 for a folder, whose pictures "
                "are sent as they come)"
            ),
        ),
    ] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=_WEEK_S * 1000,
            help="milliseconds after capture by which the result is needed (default: by the line's belt in the "
            "setting `belts`, else no deadline)",
            rich_help_panel=_TIME_PANEL,
        ),
    ] = None,
    belt_m_s: Annotated[
        float | None,
        typer.Option(
            "--belt-m-s",
            help="speed of the belt in meters a second; gives the deadline, with --ejector-m",
            rich_help_panel=_TIME_PANEL,
        ),
    ] = None,
    ejector_m: Annotated[
        float | None,
        typer.Option(
            "--ejector-m",
            help="meters along the belt from the camera to the ejector; gives the deadline, with --belt-m-s",
            rich_help_panel=_TIME_PANEL,
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="end after this many frames (default: never)")] = None,
    queue: Annotated[str, typer.Option(help="queue to put the images on")] = "live",
    when_full: Annotated[
        WhenFull,
        typer.Option(help="frames that a full queue refuses: dropped, or kept and sent again (better for folders)"),
    ] = WhenFull.DROP,
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
        typer.Option(
            min=0.001,
            max=_WEEK_S,
            help="seconds after capture when a frame is too old (default: never)",
            rich_help_panel=_TIME_PANEL,
        ),
    ] = None,
    too_old: Annotated[
        TooOld,
        typer.Option(
            help="frames that are too old: not sent, or sent for the result `expired`", rich_help_panel=_TIME_PANEL
        ),
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
    """Send the frames of one camera to a queue, until stopped.

    Simulated frames are sent at a steady rate, and a folder's pictures as they come.
    A folder's new images are sent as soon as they are complete, and before those that were there at the start.
    Each is sent once, also after a restart; an overwritten file is a new image.
    The time of capture is the file's time of modification, or a stamp in its name.
    The result is needed by the deadline: so many milliseconds after the capture, or when the belt has carried the
    bottle to the ejector.
    If the queue is full, a frame is dropped, counted by reason and named in the log, or waits (--when-full block).
    Ctrl-C ends the camera with a summary.

    Example: sortline camera --line line-1 --source simulated --rate 30 --deadline-ms 120
    """
    from producer import display
    from producer.camera_deadline import choose_deadline
    from producer.camera_start import run_camera
    from producer.folder_camera import FolderFlags
    from producer.simulated_camera import SimulatorFlags
    from shared.cli import setup_logging
    from shared.settings import load_settings

    settings = load_settings(redis_url=redis_url)
    setup_logging(settings)
    deadline = choose_deadline(settings, line, deadline_ms=deadline_ms, belt_m_s=belt_m_s, ejector_m=ejector_m)
    default_hz = _SIMULATED_HZ if source == SIMULATED else 0.0
    options = CameraOptions(
        line=line,
        camera=name,
        rate_hz=default_hz if rate is None else rate,
        deadline_ms=deadline.ms,
        deadline_source=deadline.source,
        count=count,
        queue=queue,
        encoder_per_frame=encoder_per_frame,
        max_age_s=max_age,
        too_old=too_old,
        when_full=when_full,
    )
    folder_flags = FolderFlags(
        stamp_pattern=stamp_pattern,
        capture_lag_ms=capture_lag_ms,
        recursive=recursive,
        only_new=only_new,
        move_to=move_to,
        delete=delete,
    )
    summary = run_camera(
        options,
        source,
        simulator=SimulatorFlags(size=size, quality=quality, seed=seed, pool=pool, replay=replay),
        folder=folder_flags,
        settings=settings,
        metrics_port=metrics_port,
    )
    display.show_camera(summary, as_json=as_json)


def upload(
    paths: Annotated[list[Path], typer.Argument(help="image files, folders of them, or zip archives")],
    line: Annotated[str, typer.Option(help="line to file the results under")] = "upload",
    queue: Annotated[str, typer.Option(help="queue to put the images on")] = "bulk",
    wait: Annotated[bool, typer.Option("--wait", help="wait for the results")] = False,
    out: Annotated[Path | None, typer.Option(help="CSV file to write, with one row per file")] = None,
    timeout: Annotated[
        float, typer.Option(help="give up after this many seconds in which neither the queue moves nor a result comes")
    ] = 120.0,
    redis_url: RedisUrl = None,
    as_json: JsonFlag = False,
) -> None:
    """Put image files onto a queue and, with --wait, collect the result of each file.

    Folders and zip archives are searched for files; links are followed. Hidden files, and those of the system such as
    @eaDir, are left out, and counted. The CSV has one row for each file. A file that is not an image is `rejected`,
    with the reason, and not sent. While the queue is full, the command waits, as long as the queue moves. The exit code
    is 0 if every file has its result or, without --wait, is on the queue (a rejection is a result); 1 if a result is
    missing or a job failed; 2 for a setting that can't be used, or if the server refuses e.g. the login.

    Example: sortline upload photos/ more.zip --wait --out results.csv
    """
    from producer.upload import UploadOptions, all_answered
    from producer.upload_start import run_upload
    from shared.settings import load_settings

    settings = load_settings(redis_url=redis_url)
    options = UploadOptions(line=line, queue=queue, wait=wait, timeout_s=timeout)
    rows = run_upload(paths, options, settings, out=out, as_json=as_json)
    raise typer.Exit(0 if all_answered(rows) else 1)


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
    from producer.result_filter import ResultFilter
    from producer.result_listing import list_results
    from shared.errors import BadSetting
    from shared.settings import load_settings

    if as_json and as_csv:
        raise BadSetting("--json and --csv are two forms of the same results: give one of them.")
    settings = load_settings(redis_url=redis_url)
    wanted = ResultFilter(jobs=job or (), outcomes=outcome or (), lanes=lane or ())
    list_results(settings, line=line, wanted=wanted, count=count, follow=follow, as_json=as_json, as_csv=as_csv)
