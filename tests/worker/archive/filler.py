"""Fill an archive as a worker would: `python -m tests.worker.archive.filler ROOT MAX_BYTES HOST IMAGES`.

Writes IMAGES images one after the other. After each one, prints how many bytes the archive takes at that moment.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.worker.archive.kit import disk_bytes, result_json
from worker.archive.folder import ArchiveFolder

IMAGE_BYTES = 7000  # two blocks, and one for its result


def main(root: Path, max_bytes: int, host: str, images: int) -> None:
    """Write the images and print the archive's size after each one."""
    archive = ArchiveFolder(root, max_bytes=max_bytes, host=host)
    archive.prepare()
    for number in range(images):
        archive.write(bytes(IMAGE_BYTES), result_json(f"{host}-{number}", finished_at=time.time()))
        print(measured(root), flush=True)


def measured(root: Path) -> int:
    """The archive's size in bytes. Another worker may remove a file while this counts: then count again."""
    while True:
        try:
            return disk_bytes(root)
        except FileNotFoundError:
            continue


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
