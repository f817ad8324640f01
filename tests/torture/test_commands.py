"""The command `sortline torture`: which campaigns it runs, and what it leaves on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sortline.cli
from shared.errors import BadSetting, Transient
from torture import run
from torture.campaigns.base import Figures, Limits
from torture.commands import CAMPAIGNS
from torture.plant.plant import Plant
from torture.run import COMES_TO_ITS_END, Report, run_campaigns


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The campaigns that the command would have run."""
    names: list[str] = []

    def record(campaigns: Sequence[str], *_: object, **__: object) -> list[Report]:
        names.extend(campaigns)
        return []

    monkeypatch.setattr(run, "run_campaigns", record)
    return names


def torture(*arguments: str) -> int:
    return CliRunner().invoke(sortline.cli.app, ["torture", *arguments]).exit_code


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], list(CAMPAIGNS)),
        (["all", "kills"], list(CAMPAIGNS)),
        (["stops", "kills", "stops"], ["stops", "kills"]),
        (["--redis-url", "redis://host"], [name for name in CAMPAIGNS if name != "server"]),
        (["server", "--redis-url", "redis://host"], ["server"]),
    ],
)
def test_the_campaigns_that_run(chosen: list[str], temporary: Path, arguments: list[str], names: list[str]) -> None:
    assert torture(*arguments) == 0
    assert chosen == names
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("arguments", [["all", "killz"], ["kills", "--engine", "ideal"], ["kills", "--seed", "x"]])
def test_wrong_arguments_are_refused(chosen: list[str], arguments: list[str]) -> None:
    assert torture(*arguments) == 2
    assert not chosen


def test_a_run_that_starts_nothing_leaves_no_folder(temporary: Path) -> None:
    with pytest.raises(BadSetting, match="kills its server"):
        CliRunner().invoke(
            sortline.cli.app, ["torture", "server", "--redis-url", "redis://host"], catch_exceptions=False
        )
    assert not list(temporary.iterdir())


def test_a_run_that_fails_names_its_seed_and_its_folder(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, folder: Path, **__: object) -> list[Report]:
        (folder / "worker.log").touch()
        raise Transient("the server is away")

    monkeypatch.setattr(run, "run_campaigns", fail)
    result = CliRunner().invoke(sortline.cli.app, ["torture", "kills", "--seed", "7"])
    (folder,) = temporary.iterdir()
    assert result.output.splitlines()[-1] == f"seed 7; logs and ledgers: {folder}"


def run_one(folder: Path) -> Report:
    """Run the campaign `kills`, which the tests replace."""
    (report,) = run_campaigns(
        ["kills"],
        Limits(kills=1, seconds=1),
        engine="null",
        seed=1,
        redis_url=None,
        flush=False,
        folder=folder,
        on_progress=print,
    )
    return report


def test_a_campaign_that_waits_in_vain_is_a_breach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_in_vain(plant: Plant, limits: Limits) -> Figures:
        raise Transient("waited in vain")

    monkeypatch.setattr(run, "CAMPAIGNS", {"kills": wait_in_vain})
    assert [(breach.promise, breach.examples) for breach in run_one(tmp_path).breaches] == [
        (COMES_TO_ITS_END, ("waited in vain",))
    ]


def test_workers_serve_the_queues_that_campaigns_send_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queues: list[str] = []

    def look(plant: Plant, limits: Limits) -> Figures:
        queues.extend(plant.settings.queue_names)
        return {}

    monkeypatch.setattr(run, "CAMPAIGNS", {"kills": look})
    monkeypatch.setenv("SORTLINE_QUEUES", "urgent")
    run_one(tmp_path)
    assert queues == ["live", "bulk"]


def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadSetting, match="can't be used: File exists"):
        run_one(tmp_path / "file")
