"""What becomes of freed memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# A batch of images comes and goes, again and again: how many pages did the kernel have to clear after the first time?
_BATCHES = """
import resource, sys
from shared.native_memory import keep_free_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def batch():
    images = [bytearray(30_000) for _ in range(300)]
    images.reverse()
    images.clear()

if sys.argv[1] == "keep":
    keep_free_memory()
batch()
before = faults()
for _ in range(10):
    batch()
print(faults() - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", _BATCHES, how]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has a threshold to set")
def test_memory_that_was_freed_is_there_for_the_next_batch() -> None:
    pages = 300 * 30_000 // 4096
    assert faults("default") > pages  # what the call is for
    assert faults("keep") < pages
