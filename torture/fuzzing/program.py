"""Fuzzes one target. Run as a process, because an input may crash or hang it.

    python -m torture.fuzzing.program TARGET plain SEED FIRST SECONDS FOLDER     mutates the seeds, from number FIRST on
    python -m torture.fuzzing.program TARGET guided SEED FIRST SECONDS FOLDER    atheris mutates what reached new code
    python -m torture.fuzzing.program TARGET replay FILE                         runs one input; exit code 1 if it fails

FOLDER gets the status, which the starter reads when this process has died, and the folder `findings`.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # atheris must see these imported, to instrument them
    from torture.fuzzing.findings import Status, Watch
    from torture.fuzzing.targets import Target

STATUS_FILE, FINDINGS = "status", "findings"
# What atheris follows. The codecs themselves are native code, which it does not see.
_INSTRUMENTED = ["PIL", "shared.images", "worker.rq.job_fields", "worker.steps.admit", "shared.schemas"]
_LIBFUZZER_FLAGS = (
    *(f"-handle_{signal}=0" for signal in ("segv", "bus", "abrt", "ill", "fpe", "term", "int")),
    *("-rss_limit_mb=0", "-max_len=20000", "-verbosity=0", "-print_final_stats=0"),
)


def main() -> int:
    """Do what the arguments say. Returns the exit code."""
    name, how, *rest = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if how == "replay":
        return _replay(name, Path(rest[0]))
    from torture.plant.lifeline import end_with_caller

    end_with_caller()
    seed, first, seconds, folder = int(rest[0]), int(rest[1]), float(rest[2]), Path(rest[3])
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)  # libtiff and libFuzzer write a line for every few inputs
    os.dup2(silent, 2)
    if how == "guided":
        _fuzz_guided(name, seed=seed, first=first, seconds=seconds, folder=folder)
    else:
        fuzz_plain(name, seed=seed, first=first, seconds=seconds, folder=folder)
    return 0


def _replay(name: str, file: Path) -> int:
    from torture.fuzzing.findings import Watch
    from torture.fuzzing.targets import TARGETS

    finding = Watch(TARGETS[name]).run(file.read_bytes())
    print("no finding" if finding is None else f"{finding.kind}\n{finding.text}")
    return int(finding is not None)


def fuzz_plain(name: str, *, seed: int, folder: Path, seconds: float, first: int = 0, runs: int | None = None) -> int:
    """Run the inputs from number `first` on until the time is over, or `runs` of them. Returns how many were run."""
    from torture.fuzzing.mutator import Mutator
    from torture.fuzzing.targets import TARGETS

    target = TARGETS[name]
    mutator = Mutator(target.seeds(), target.tokens, seed=seed)
    run_one = _runner(name, target, seed=seed, first=first, folder=folder)
    until, number = time.monotonic() + seconds, first
    while time.monotonic() < until and (runs is None or number < first + runs):
        run_one(mutator.input_of(number))
        number += 1
    return number - first


def _fuzz_guided(name: str, *, seed: int, first: int, seconds: float, folder: Path) -> None:
    import atheris  # type: ignore[import-untyped]  # it has no type information

    with atheris.instrument_imports(include=_INSTRUMENTED):
        from torture.fuzzing.targets import TARGETS
    target = TARGETS[name]
    corpus = folder / f"{name}-corpus"  # a process that takes the place of one that died goes on with it
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    words = folder / f"{name}.dict"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens if len(token) <= 64))
    flags = [f"-seed={seed % 2**31 + first + 1}", f"-max_total_time={max(1, round(seconds))}", f"-dict={words}"]
    run_one = _runner(name, target, seed=seed, first=first, folder=folder)
    atheris.Setup([sys.argv[0], str(corpus), *flags, *_LIBFUZZER_FLAGS], run_one)
    atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def _runner(name: str, target: Target, *, seed: int, first: int, folder: Path) -> Callable[[bytes], None]:
    """Runs one input after another, counts them in the status, and keeps what fails."""
    from torture.fuzzing.findings import FindingsFolder, Status, Watch

    watch: Watch = Watch(target)
    status: Status = Status(folder / f"{name}-{STATUS_FILE}")
    findings = FindingsFolder(folder / FINDINGS)
    count = first

    def run_one(data: bytes) -> None:
        nonlocal count
        count += 1
        status.write(count, data)
        if (finding := watch.run(data)) is not None:
            findings.add(name, data, finding, seed=seed)

    return run_one


if __name__ == "__main__":
    sys.exit(main())
