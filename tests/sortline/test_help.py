"""The help of every command at 80 columns: nothing sticks out, is cut off or is broken in the middle of a word."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
import typer
from typer.testing import CliRunner

from sortline.cli import app

WIDTH = 80


def all_commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from all_commands(inner, (*path, name))


def help_of(*path: str) -> str:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH)})
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("path", list(all_commands(typer.main.get_command(app))), ids=" ".join)
def test_the_help_fits_80_columns(path: tuple[str, ...]) -> None:
    text = help_of(*path)
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    assert "…" not in text
    assert "<bool>" not in text, "a switch looks as if it took a value"
    kinds = [part for part in text.split() if part.startswith("<")]
    broken = [kind for kind in kinds if not kind.endswith(">") and kind not in ("<int", "<float")]
    assert broken == []  # a list of choices that is too long for its column


def test_the_lines_of_a_paragraph_are_joined() -> None:
    words = "dataset's held_out.txt, or in its folder test/, are used neither for training"
    assert any(line.strip() == words for line in help_of("train").splitlines())


def test_options_of_one_source_or_benchmark_have_headings_of_their_own() -> None:
    camera = help_of("camera")
    assert camera.index("--queue") < camera.index("Options of simulated frames") < camera.index("--quality")
    assert camera.index("--quality") < camera.index("Options of a folder") < camera.index("--stamp-pattern")
    bench = help_of("bench")
    assert bench.index("--rounds") < bench.index("Options of single benchmarks") < bench.index("--idle-workers")
