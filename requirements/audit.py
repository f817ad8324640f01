"""Asks whether a locked package has a known vulnerability: `make audit`.

pip-audit says "No known vulnerabilities found" and ends with 0 also if it could not ask about a single package, for
example because the package index is a mirror that has no such data. Here, that is a result of its own.

Exit codes: 0 each package was looked up, and none has a known vulnerability; 1 one has; 3 not every package could be
looked up, and no vulnerability is known of the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

CLEAN, VULNERABLE, UNKNOWN = 0, 1, 3
LOCKS = sorted(str(path) for path in Path(__file__).parent.glob("*.lock"))
# The files name every package by digest: nothing has to be resolved, and pip is not asked.
COMMAND = ["-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json"]
LISTED = 5


def main(options: list[str]) -> int:
    """Run pip-audit on the lock files; `options` are passed on, e.g. --vulnerability-service=osv."""
    command = [sys.executable, *COMMAND, *options, *(f"--requirement={path}" for path in LOCKS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # the caller's own options
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        give_up(done.stderr)
    return report(packages)


def give_up(errors: str) -> NoReturn:
    last = (errors.strip().splitlines() or ["no reason given"])[-1]
    print(f"Not audited: pip-audit gave no answer: {last}", file=sys.stderr)
    sys.exit(UNKNOWN)


def report(packages: list[dict[str, Any]]) -> int:
    """Print what is known of each package, and return the exit code."""
    asked = [package for package in packages if "skip_reason" not in package]
    unknown = [package for package in packages if "skip_reason" in package]
    vulnerable = [package for package in asked if package["vulns"]]
    for package in vulnerable:
        for found in package["vulns"]:
            mended = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {found['id']}, mended in {mended}")
    print(f"{len(asked)} of {len(packages)} packages looked up, {len(vulnerable)} with known vulnerabilities.")
    if unknown:
        names = ", ".join(package["name"] for package in unknown[:LISTED])
        more = f" and {len(unknown) - LISTED} more" if len(unknown) > LISTED else ""
        print(f"Not audited: {names}{more}. The first reason: {unknown[0]['skip_reason']}", file=sys.stderr)
        print("Where the data can't be had, nothing is known: run this where it can.", file=sys.stderr)
    if vulnerable:
        return VULNERABLE
    return UNKNOWN if unknown or not packages else CLEAN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
