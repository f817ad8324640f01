"""Short runs of the campaigns: they do what they say, and no promise is broken. Long runs are left to the command."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest
import redis

from shared.errors import BadSetting
from shared.progress import ProgressLines
from shared.settings import Settings
from tests.e2e.kit import running, sortline
from tests.kit import PATIENCE_S, wait_until
from tests.torture.kit import PROGRESS_SUFFIX, short_run
from torture import commands
from torture.campaigns.files import SAMPLE
from torture.campaigns.irregular import CAMERA_KINDS
from torture.campaigns.server import FAULTS, LOSSES
from torture.corpus.irregular import archives, backbones, special_files
from torture.forging.forgeries import FORGERIES, KINDS
from torture.fuzzing.targets import TARGETS
from torture.history.ledger import read_ledger
from torture.plant.images import MARKS
from torture.run import CAMPAIGNS, Report

pytestmark = pytest.mark.e2e

Runs = Mapping[str, Future[Report]]


def test_kills(runs: Runs) -> None:
    report = runs["kills"].result()
    assert report.breaches == []
    assert report.figures["workers killed"] + report.figures["producers killed"] == 4
    assert report.figures["workers killed"] >= 1
    assert report.results >= report.accepted > 0


def test_stops(runs: Runs) -> None:
    report = runs["stops"].result()
    assert report.breaches == []
    assert all(report.figures[action] for action in ("zombie", "SIGTERM", "SIGINT", "SIGTERM twice"))
    assert report.results >= report.accepted > 0


def test_server(runs: Runs) -> None:
    report = runs["server"].result()
    assert report.breaches == []
    assert report.figures == dict.fromkeys(sorted(FAULTS | LOSSES), 1)
    assert report.accepted > 0


def test_overload(runs: Runs) -> None:
    report = runs["overload"].result()
    assert report.breaches == []
    assert report.figures["workers killed"] >= 1
    assert report.results >= report.accepted > 0


def test_poison(runs: Runs) -> None:
    """Only the marked images fail, one of them in the first batches. Those held beside them are sorted."""
    report = runs["poison"].result()
    assert report.breaches == []
    assert all(report.figures["marks obeyed"][mark] for mark in MARKS)
    assert report.figures["workers replaced"]["crashed (SIGABRT)"] >= 1
    assert all(report.figures["sent"].values())
    assert report.figures["sent"]["hang"] == 1, "a second one would hang several workers, which takes half a minute"
    assert report.results >= report.accepted > 0
    assert report.outcomes["failed"] == 1 + sum(report.figures["sent"][mark] for mark in MARKS)


def test_forged(runs: Runs, runs_folder: Path) -> None:
    report = runs["forged"].result()
    assert report.breaches == []
    figures = report.figures
    assert figures["kinds of forgery"] == len(FORGERIES)
    assert {kind: figures[kind] for kind in KINDS} == {kind: len(forgeries) for kind, forgeries in KINDS.items()}
    assert figures["payloads"] >= 150 and figures["odd ids"] >= 30
    assert figures["executions"] == 0
    assert figures["those of them that were sorted"] == figures["good jobs beside forged ones"] > 300
    ledger = read_ledger((runs_folder / "forged" / "forged").glob("*.ledger"))
    kinds = {submission.kind for submission in ledger.submissions.values()}
    assert "plain" in kinds
    assert len(kinds) > 50, "forged jobs are in the ledger by the names of their forgeries"
    assert report.results >= report.accepted > 0
    lines: list[str] = []
    shown = ProgressLines(lines.append, clock=lambda: 0.0)
    for text in (runs_folder / "forged").with_suffix(PROGRESS_SUFFIX).read_text().splitlines():
        shown.show(text)
    assert len(lines) <= 2, "in a log, a line for each forgery would be hundreds"


def test_files(runs: Runs) -> None:
    """A sample of the corpus ends as it must at each entry point."""
    report = runs["files"].result()
    assert report.breaches == []
    assert report.figures["files"] == SAMPLE
    outcomes = [report.figures[f"outcomes, {name}"] for name in ("classify", "dataset", "upload", "camera")]
    assert outcomes == [outcomes[0]] * 4
    assert sum(outcomes[0].values()) == SAMPLE
    assert report.figures["workers replaced"] == 0
    assert report.figures["most memory of a process, MB"]["worker"] > 0


def test_irregular_entries(runs: Runs) -> None:
    """Each command names each irregular entry of a folder, and handles the good images beside it."""
    report = runs["files"].result()
    assert report.breaches == []
    all_named = len(archives()) + len(special_files())
    assert report.figures["irregular entries"] == all_named + len(backbones())
    assert report.figures["irregular entries named"] == {
        "classify": all_named,
        "check-dataset": all_named,
        "check-dataset, zip": len(archives()),
        "fetch-backbone": len(backbones()),
        "upload": all_named,
        "camera": len(CAMERA_KINDS),
    }


def test_fuzz(runs: Runs) -> None:
    report = runs["fuzz"].result()
    assert report.breaches == []
    assert set(report.figures["inputs"]) == {f"{target}, plain" for target in TARGETS}
    assert all(report.figures["inputs"].values())


def test_command(settings: Settings, tmp_path: Path) -> None:
    """On a server that is named, with the logs kept, as JSON."""
    arguments = ("torture", "kills", "--kills", "1", "--seed", "3", "--json", "--redis-url", settings.redis_url)
    done = sortline(*arguments, "--folder", str(tmp_path / "logs"), settings=settings)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["seed"], document["passed"]) == (3, True)
    assert [campaign["campaign"] for campaign in document["campaigns"]] == ["kills"]
    assert list((tmp_path / "logs" / "kills").glob("*.ledger"))


def test_a_server_that_is_not_empty_is_refused(settings: Settings, client: redis.Redis) -> None:
    client.set("somebody's", "data")
    done = sortline("torture", "kills", "--redis-url", settings.redis_url, settings=settings)
    assert done.returncode == 2
    assert "holds 1 keys" in done.stderr
    assert "--flush" in done.stderr
    assert client.get("somebody's") == b"data"


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "feeder-00001.ledger").touch()
    with pytest.raises(BadSetting, match="is not empty"):
        short_run("kills", tmp_path)


def test_the_command_knows_all_campaigns() -> None:
    assert tuple(CAMPAIGNS) == commands.CAMPAIGNS


def test_a_run_that_is_told_to_end_leaves_an_empty_server(
    settings: Settings, client: redis.Redis, tmp_path: Path
) -> None:
    arguments = ("torture", "kills", "--redis-url", settings.redis_url, "--folder", str(tmp_path / "logs"))
    with running("sortline", *arguments, settings=settings, log=tmp_path / "log") as run:
        wait_until(client.dbsize, "its producers send")
        run.send_signal(signal.SIGTERM)
        assert run.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert client.dbsize() == 0
    assert str(tmp_path / "logs") in (tmp_path / "log").read_text()
