"""`files`: odd and hostile files (`torture.corpus`) go through four entry points, and each must end there as it should.

The entry points are `classify`, `upload`, a folder camera and the datasets' loader. For a file, all of them must agree,
and no worker may die. Time and memory are measured for each file where the entry point is a process of its own, and for
the worker and its decoder process over the whole run. Then folders with irregular entries go through whole commands
(`torture.campaigns.irregular`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torture.campaigns.base import Figures, Limits
from torture.campaigns.entry_points import Answers, ask_program, send_by_camera, upload
from torture.campaigns.irregular import send_irregular
from torture.campaigns.memory_watch import MemoryWatch
from torture.corpus.case import REJECTED, Case, reason_in
from torture.corpus.corpus import all_cases, sample, write
from torture.plant.plant import Plant

ENDS_RIGHT = "each file ends as it must, with a reason that is true"
AGREE = "all entry points agree on a file"
NO_DEATHS = "no worker dies of a file, or is replaced"
BOUNDED = "a file takes no more time and memory than the settings allow"
# A run of at least this length has the whole corpus, a shorter one a sample.
LONG_RUN_S = 30.0
SAMPLE = 120
# Beyond `max_decode_bytes`: copies of the file, and the memory of the codecs.
MARGIN_BYTES = 150_000_000
# The limit is on processor time by an estimate that is for a core at 3 GHz. A core half as fast takes twice as long.
TIME_FACTOR = 2.0


def files(plant: Plant, limits: Limits) -> Figures:
    """Send the corpus, or a sample, through the entry points one after the other."""
    cases = all_cases(plant.options.seed)
    if limits.seconds < LONG_RUN_S:
        cases = sample(cases, SAMPLE, seed=plant.options.seed)
    folder = plant.options.folder / "corpus"
    write(cases, folder)
    by_entry_point: dict[str, Answers] = {}
    for entry_point in ("classify", "dataset"):
        plant.options.on_progress(f"{len(cases):,} files, now: {entry_point}")
        by_entry_point[entry_point] = ask_program(plant, entry_point, folder)
    # No result may come from the cache: each entry point has the same files.
    own = {"state_dir": plant.options.folder / "state", "result_cache_items": 0}
    settings = plant.settings.model_copy(update=own)
    plant.start_workers(1, settings, are_restarted=True)
    (worker,) = plant.workers
    with MemoryWatch(worker.pid) as memory:
        plant.options.on_progress(f"{len(cases):,} files, now: upload")
        by_entry_point["upload"] = upload(plant, folder, cases, settings)
        plant.options.on_progress(f"{len(cases):,} files, now: a folder camera")
        by_entry_point["camera"] = send_by_camera(plant, folder, cases, settings)
        irregular = send_irregular(plant, settings)
    for restart in worker.restarts():
        plant.note(NO_DEATHS, f"{restart.worker}: {restart.cause}")
    _check(plant, cases, by_entry_point)
    _check_costs(plant, by_entry_point)
    return {
        "files": len(cases),
        "families": len({case.family for case in cases}),
        **{f"outcomes, {entry_point}": _outcomes(answers) for entry_point, answers in by_entry_point.items()},
        "workers replaced": len(worker.restarts()),
        "most for one file": _most(by_entry_point),
        "most memory of a process, MB": memory.most_mb,
        **irregular,
    }


def _check(plant: Plant, cases: Sequence[Case], by_entry_point: Mapping[str, Answers]) -> None:
    for case in cases:
        seen: dict[str, str] = {}
        for entry_point, answers in by_entry_point.items():
            answer = answers.get(case.name)
            if answer is None:
                plant.note(ENDS_RIGHT, f"{entry_point}, {case.name!r}: no answer")
                continue
            seen[entry_point] = answer.outcome
            if not case.expected.allows(answer.outcome, answer.text):
                got = f"{answer.outcome} {answer.text or ''}"
                plant.note(ENDS_RIGHT, f"{entry_point}, {case.name!r}: {got}; expected {case.expected}")
        if len(set(seen.values())) > 1:
            plant.note(AGREE, f"{case.name!r}: {seen}")


def _check_costs(plant: Plant, by_entry_point: Mapping[str, Answers]) -> None:
    max_s = TIME_FACTOR * plant.settings.max_decode_s
    max_bytes = plant.settings.max_decode_bytes + MARGIN_BYTES
    for entry_point, answers in by_entry_point.items():
        for name, answer in answers.items():
            if answer.seconds > max_s or answer.peak_bytes > max_bytes:
                plant.note(BOUNDED, f"{entry_point}, {name!r}: {answer.seconds:.1f} s, {answer.peak_bytes:,} bytes")


def _outcomes(answers: Answers) -> dict[str, int]:
    counts = Counter(
        f"{answer.outcome} ({reason_in(answer.text or '')})" if answer.outcome == REJECTED else answer.outcome
        for answer in answers.values()
    )
    return dict(sorted(counts.items()))


def _most(by_entry_point: Mapping[str, Answers]) -> dict[str, str]:
    """The slowest file and the largest one at each entry point that measures them."""
    most = {}
    for entry_point, answers in by_entry_point.items():
        measured = [(answer.seconds, answer.peak_bytes, Path(name).name) for name, answer in answers.items()]
        if not any(seconds for seconds, _, _ in measured):
            continue
        seconds, _, slowest = max(measured)
        peak_bytes, largest = max((peak_bytes, name) for _, peak_bytes, name in measured)
        most[entry_point] = f"{seconds:.1f} s ({slowest}), {peak_bytes // 1_000_000:,} MB ({largest})"
    return most
