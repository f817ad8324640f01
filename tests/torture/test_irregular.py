"""The checks of irregular entries: each finds what it is for. That the commands pass them is in test_campaigns.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.settings import Settings
from torture.campaigns import irregular
from torture.campaigns.irregular import BOUNDED, ENDS, HANDLES_GOOD, NAMES_ALL, PRINTS_CLEANLY, Run
from torture.campaigns.memory_watch import MemoryWatch
from torture.plant.plant import Plant, PlantOptions


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Run:
    """Nothing of the plant runs: commands need only its folder."""
    options = PlantOptions(
        settings=settings, server=None, folder=tmp_path, engine="null", seed=1, on_progress=lambda text: None
    )
    return Run(Plant(options), settings, tmp_path / "set", ["good/a.jpg", "good/new\nline.jpg"], [])


def broken(run: Run) -> dict[str, int]:
    return {promise: len(cases) for promise, cases in run.plant.broken.items()}


def program(folder: Path, text: str) -> str:
    (folder / "program.py").write_text(text)
    return "program"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be run."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_good_command_breaks_nothing(run: Run, modules: Path) -> None:
    text = run.command("it", "a.jpg", module=program(modules, "import sys; print(sys.argv[1], 'is empty')"))
    run.check_named("it", {"a.jpg": text}, {"a.jpg": "is empty"})
    run.check_good("it", ["good/a.jpg", r"good/new\nline.jpg"])
    assert broken(run) == {}
    assert run.named == {"it": 1}


@pytest.mark.parametrize(
    ("text", "promise"),
    [
        ("print('\\x1b[31mred')", PRINTS_CLEANLY),
        ("import sys; sys.stdout.buffer.write(b'latin-\\xfc')", PRINTS_CLEANLY),
        ("print('Traceback (most recent call last)')", PRINTS_CLEANLY),
        ("import os; os.abort()", ENDS),
        ("import time; time.sleep(3600)", ENDS),
    ],
)
def test_a_bad_command_is_noted(
    run: Run, modules: Path, monkeypatch: pytest.MonkeyPatch, text: str, promise: str
) -> None:
    if "3600" in text:
        monkeypatch.setattr(irregular, "MOST_S", 0.5)
    run.command("it", module=program(modules, text))
    assert promise in broken(run)


def test_a_command_that_takes_much_memory_is_noted(run: Run, modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watch(MemoryWatch):
        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            self.most_bytes["other"] = irregular.MOST_BYTES + 1

    monkeypatch.setattr(irregular, "MemoryWatch", Watch)
    run.command("it", module=program(modules, ""))
    assert broken(run) == {BOUNDED: 1}


def test_a_name_or_an_image_that_is_missing_is_noted(run: Run) -> None:
    run.check_named("it", {"a.jpg": "is full"}, {"a.jpg": "is empty", "b.jpg": "is empty"})
    run.check_good("it", ["good/a.jpg"])
    assert broken(run) == {NAMES_ALL: 2, HANDLES_GOOD: 1}
