"""Tries a bundle's model in a process of its own, before it is published or served.

In: an opened bundle. Out: nothing, or the reason why it can't be used. A model file is a program for the engine: a file
that was made or damaged for it can crash the process that loads it. Here only that other process is lost. It loads this
bundle and no other, although whoever can write the store may exchange the folder meanwhile: it compares the manifest's
digest. It gets no passwords of the store or of the server in its environment.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from typing import IO

from model_store.bundle.files import Bundle
from model_store.engines.loading import runnable_engines
from model_store.engines.protocol import EngineName
from shared.errors import BadBundle, EngineFailed
from shared.subprocesses import SupervisedProcess, name_of_ending, own_command

log = logging.getLogger("sortline.store")

_PROGRAM = "model_store.engines.isolated_load_program"
# Importing TensorFlow takes 5 to 10 s; loading and replaying a large model some seconds more.
TIMEOUT_S = 300.0
_POLL_S = 0.02
_MAX_SHOWN_BYTES = 400
# Sorting has precedence over a look at the next version.
_NICENESS = 19
# What Python and the engines read. Other variables may hold secrets: those of the settings, of the store's driver.
_VARIABLES = {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "VIRTUAL_ENV"}
_VARIABLES_BEGIN = ("PYTHON", "LC_", "LD_", "TF_", "XLA_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "KMP_")


def engines_to_try(*, litert_only: bool) -> list[EngineName]:
    """The engines that load each of a bundle's files once, as far as they are installed here."""
    left_out = {"tensorflow", "tensorflow-mixed"} if litert_only else {"tensorflow-mixed"}  # which loads the same file
    return [name for name in runnable_engines() if name not in left_out]


def check_loadable(bundle: Bundle, *, litert_only: bool = False) -> None:
    """Load the model of a bundle with `engines_to_try`, and replay its golden images.

    Raises:
        BadBundle: an engine refuses the model or crashes, or a golden answer differs.
        EngineFailed: see `isolated_load_error`.
    """
    for engine in engines_to_try(litert_only=litert_only):
        if (error := isolated_load_error(bundle, engine)) is not None:
            raise BadBundle(error)


def isolated_load_error(
    bundle: Bundle,
    engine: EngineName,
    *,
    background: bool = False,
    timeout_s: float = TIMEOUT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """Why the engine can't run the bundle's model; None if it can. Takes a process of its own.

    Args:
        bundle: its files may be exchanged since it was opened: then it is refused.
        engine: what loads it.
        background: another model of this process is serving: run only when a core is idle.
        timeout_s: after this long the model is refused.
        clock: monotonic seconds.
        sleep: waits that many seconds.

    Raises:
        EngineFailed: the process was killed from outside, e.g. for want of memory: that says nothing about the model.
    """
    niceness = str(_NICENESS if background else 0)
    command = own_command(str(bundle.path), bundle.manifest_sha256, engine, niceness, module=_PROGRAM)
    subject = f"{bundle.path} on engine {engine}"
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        ends_at = clock() + timeout_s
        with SupervisedProcess(command, output=output, errors=errors, inherited=_environment()) as process:
            while (code := process.poll()) is None and clock() < ends_at:
                sleep(_POLL_S)
        if code is None:
            return f"{subject}: the model was not loaded within {timeout_s:.0f} s."
        return _outcome(code, output, errors, subject=subject)


def _environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name in _VARIABLES or name.startswith(_VARIABLES_BEGIN)
    }


def _outcome(code: int, output: IO[bytes], errors: IO[bytes], *, subject: str) -> str | None:
    ending = name_of_ending(code)
    if ending == "SIGKILL":
        raise EngineFailed(
            f"{subject}: the process that tried the model was killed, most likely for want of memory. Free some, and "
            "try again."
        )
    if code != 0:
        return f"{subject}: the model makes the engine crash ({ending}{_last_line(errors)}). Don't use this bundle."
    output.seek(0)
    try:
        lines = output.read().splitlines()
        error = json.loads(lines[-1])["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return f"{subject}: the model ended the process that tried it. Don't use this bundle."
    return None if error is None else str(error)


def _last_line(errors: IO[bytes]) -> str:
    """The last line of the process's output, or its end, for the message."""
    size = errors.seek(0, 2)
    errors.seek(max(0, size - 4 * _MAX_SHOWN_BYTES))
    lines = errors.read().decode(errors="replace").split("\n")
    text = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"; the last line of its output: {text[-_MAX_SHOWN_BYTES:]!r}" if text else ""
