"""One short run of each campaign, for all the tests that look at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.torture.kit import short_run
from torture.run import CAMPAIGNS, Report

# They wait more than they work: processes that start, leases, states that last.
AT_ONCE = 3
# They take longest, so they begin first.
LONG = ("poison", "forged")


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has a folder for each campaign, with a folder of the same name in it: its logs and ledgers."""
    return tmp_path_factory.mktemp("torture")


@pytest.fixture(scope="session")
def runs(runs_folder: Path) -> Iterator[Mapping[str, Future[Report]]]:
    """The reports of all campaigns, as soon as they are there."""
    with pytest.MonkeyPatch.context() as monkeypatch, ThreadPoolExecutor(AT_ONCE) as pool:
        monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
        monkeypatch.chdir(runs_folder)  # no sortline.toml here
        names = sorted(CAMPAIGNS, key=lambda name: name not in LONG)
        yield {name: pool.submit(short_run, name, runs_folder / name) for name in names}
