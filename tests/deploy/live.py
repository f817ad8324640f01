"""A real worker process, a real camera process, and a real Prometheus that scrapes them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from shared.ports import free_port
from tests.deploy.manifests import DEPLOY
from tests.kit import PROJECT, wait_until


def status_of(url: str) -> int:
    """The HTTP status of a GET; 0 when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextlib.contextmanager
def running(command: list[str], *, log: Path, ready_url: str, env: dict[str, str] | None = None) -> Iterator[None]:
    """A process for as long as the block lasts; ready when `ready_url` answers 200. SIGTERM must end it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=log.parent)
    try:
        wait_until(lambda: process.poll() is not None or status_of(ready_url) == 200, f"{ready_url}; see {log}")
        assert process.poll() is None, f"{command} ended:\n{log.read_text()[-4000:]}"
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def real_worker(environment: dict[str, str], *, folder: Path) -> Iterator[str]:
    """`sortline worker` with these SORTLINE_ variables. Yields the address of its metrics, `host:port`."""
    address = f"127.0.0.1:{free_port()}"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SORTLINE_")}
    env = inherited | environment | {"SORTLINE_METRICS_PORT": address.rpartition(":")[2], "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "sortline", "worker"]
    with running(command, log=folder / "worker.log", ready_url=f"http://{address}/readyz", env=env):
        yield address


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The instant vector of an expression: `metric` labels and `value` of each sample.

        Raises:
            AssertionError: Prometheus could not parse or run it; carries its words.
        """
        data = self._get("query", query=promql)
        assert data["resultType"] == "vector", f"{promql} gives a {data['resultType']}"
        return list(data["result"])

    def label_values(self, label: str, *, metric: str) -> list[str]:
        """What Grafana's label_values(metric, label) lists."""
        return list(self._get(f"label/{label}/values", **{"match[]": metric}))

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error


@contextlib.contextmanager
def real_camera(redis_url: str, *, line: str, folder: Path) -> Iterator[str]:
    """`sortline camera` on an empty folder: it sends nothing. Yields the address of its metrics, `host:port`."""
    address = f"127.0.0.1:{free_port()}"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SORTLINE_")}
    env = inherited | {"SORTLINE_STATE_DIR": str(folder / "state"), "PYTHONPATH": str(PROJECT)}
    pictures = folder / "pictures"
    pictures.mkdir()
    command = [sys.executable, "-m", "sortline", "camera", "--line", line, "--source", str(pictures)]
    command += ["--redis-url", redis_url, "--metrics-port", address.rpartition(":")[2]]
    with running(command, log=folder / "camera.log", ready_url=f"http://{address}/metrics", env=env):
        yield address


def scrape_config(*targets: str) -> dict[str, Any]:
    """deploy/'s scrape configuration and alerts, with these targets in place of Compose's DNS, scraped often."""
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    return config


@contextlib.contextmanager
def real_prometheus(*targets: str, folder: Path) -> Iterator[Prometheus]:
    """Debian's Prometheus on the loopback address, scraping `targets`."""
    binary = shutil.which("prometheus")
    assert binary is not None
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(scrape_config(*targets)))
    address = f"127.0.0.1:{free_port()}"
    command = [
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    with running(command, log=folder / "prometheus.log", ready_url=f"http://{address}/-/ready"):
        yield Prometheus(f"http://{address}")
