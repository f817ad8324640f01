"""Short runs of the campaigns: they do what they say, and no promise is broken. Whole runs are a command's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from shared.errors import BadSetting
from shared.settings import Settings
from tests.e2e.kit import sortline
from torture import commands
from torture.campaigns.base import Limits
from torture.campaigns.server import FAULTS
from torture.run import CAMPAIGNS, Report, run_campaigns


def short_run(name: str, folder: Path, *, kills: int = 1, seconds: float = 1) -> Report:
    """One campaign on a server of its own."""
    (report,) = run_campaigns(
        [name],
        Limits(kills=kills, seconds=seconds),
        engine="null",
        seed=7,
        redis_url=None,
        flush=False,
        folder=folder,
        say=lambda text: None,
    )
    return report


def test_kills(tmp_path: Path) -> None:
    report = short_run("kills", tmp_path, kills=4)
    assert report.breaches == []
    assert report.figures["workers killed"] + report.figures["producers killed"] == 4
    assert report.figures["workers killed"] >= 1
    assert report.results >= report.accepted > 0


def test_stops(tmp_path: Path) -> None:
    report = short_run("stops", tmp_path)
    assert report.breaches == []
    assert all(report.figures[action] for action in ("zombie", "SIGTERM", "SIGINT", "SIGTERM twice"))
    assert report.results == report.accepted > 0


def test_server(tmp_path: Path) -> None:
    report = short_run("server", tmp_path)
    assert report.breaches == []
    assert report.figures == dict.fromkeys(sorted(FAULTS), 1)
    assert report.accepted > 0


def test_overload(tmp_path: Path) -> None:
    report = short_run("overload", tmp_path, seconds=6)
    assert report.breaches == []
    assert report.figures["workers killed"] >= 1
    assert report.results == report.accepted > 0


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


def test_the_server_campaign_wants_a_server_of_its_own(settings: Settings, tmp_path: Path) -> None:
    done = sortline("torture", "server", "--redis-url", settings.redis_url, settings=settings)
    assert done.returncode == 2
    assert "kills its server" in done.stderr


def test_an_unknown_campaign_is_refused(settings: Settings) -> None:
    done = sortline("torture", "killz", settings=settings)
    assert done.returncode == 2
    assert "killz" in done.stderr
