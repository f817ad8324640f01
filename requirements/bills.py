"""Writes what is in the images: a bill of materials (CycloneDX) of each lock file that an image installs: `make sbom`.

The same lock files make the same bills. The tool puts the whole line of a lock file, with all digests, into each
package's description; here the description ends where the digests begin, as they have fields of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).parent
IMAGES = {"sortline-worker": "worker.lock", "sortline-gpu": "gpu.lock"}
# A lock file does not say which package needs which, and the tool warns of that.
COMMAND = ["-W", "ignore:The Component this BOM is describing", "-m", "cyclonedx_py", "requirements"]
OPTIONS = ["--output-reproducible", "--validate", "--pyproject", str(REQUIREMENTS.parent / "pyproject.toml")]


def main(folder: Path) -> None:
    """Write the bills into the folder, and say where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for image, lock in IMAGES.items():
        path = folder / f"{image}.cdx.json"
        command = [sys.executable, *COMMAND, *OPTIONS, f"--output-file={path}", str(REQUIREMENTS / lock)]
        if code := subprocess.run(command, check=False).returncode:  # noqa: S603  # the names above
            sys.exit(code)
        bill: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for component in bill["components"]:
            component["description"] = component["description"].partition("--hash=")[0].rstrip(" \\")
        path.write_text(json.dumps(bill, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path}: {len(bill['components'])} packages of {lock}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
