"""Runs an upload: finds the files, sends them, shows and writes what became of them. Called by `sortline upload`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from producer import display
from producer.upload import Row, Uploader, UploadOptions, write_csv
from producer.upload_inputs import is_image, list_inputs
from shared.errors import BadInput, NotFound
from shared.messages import say
from shared.output_files import check_output_files
from shared.server.connection import check, connect
from shared.settings import Settings
from shared.termination import ended_by_sigterm


def run_upload(
    paths: Sequence[Path], options: UploadOptions, settings: Settings, *, out: Path | None, as_json: bool
) -> list[Row]:
    """Upload the files, and print what became of them.

    Args:
        paths: image files, folders of them, or zip archives.
        options: where the images go.
        settings: name the server.
        out: write a CSV file with a row for each file; None: write none.
        as_json: print all rows as JSON instead of a table.

    Returns:
        One row for each file.

    Raises:
        NotFound: there is no file to send.
        BadSetting: an option can't be used, or the server refuses; the outcome of each file is printed and written.
        RedisUnavailable: the server can't be reached at the start. Later the upload waits for it.
    """
    inputs = list(list_inputs(paths))
    if not inputs:
        raise NotFound(
            f"no file to send in {', '.join(map(str, paths))}: name image files, folders of them, or zip archives."
        )
    # Another file that was found in a folder may be replaced: it can hold the results of an earlier upload.
    read = paths if out is None or not is_image(out) else [each.path for each in inputs]
    check_output_files({"--out": out}, inputs=read)
    check(connect(settings.redis_url), settings.redis_url)
    refused: BadInput | None = None
    with ended_by_sigterm(), display.upload_bar(len(inputs), wait=options.wait) as on_progress:
        uploader = Uploader(options, settings, on_progress=on_progress)
        try:
            uploader.run(inputs)
        except BadInput as error:  # raised again below, after the outcome of each file is shown
            refused = error
        except BaseException:  # interrupted: write what is known so far
            _write(uploader.rows, out)
            raise
    try:
        if as_json or uploader.rows:  # there are no rows if the name of the line or queue can't be used
            display.show_upload(uploader.rows, as_json=as_json)
    finally:  # also if the reader of the printed lines has ended, e.g. `head`
        _write(uploader.rows, out)
    if out is not None and not as_json:
        say(f"one row for each file: {out}")
    if refused is not None:
        raise refused
    return uploader.rows


def _write(rows: list[Row], out: Path | None) -> None:
    if out is not None:
        write_csv(rows, out)
