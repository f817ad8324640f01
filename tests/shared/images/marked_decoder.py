"""The decoder program, with a decoder that obeys a mark at the end of a file: it hangs, spins, crashes or grows."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from shared.errors import BadImage
from shared.images import decoder_program
from shared.images.decoding import decode_into

MARK = b"mark:"
_GROWTH_BYTES = 200_000_000


def spin() -> None:
    while True:
        pass


def grow() -> None:
    kept = [bytearray(_GROWTH_BYTES) for _ in range(100)]
    raise AssertionError(f"{len(kept)} times more memory than the limit")


def grow_in_pillow() -> None:
    try:
        grow()
    except MemoryError as error:
        raise BadImage("corrupt", "as `decoding` has it") from error


def bug() -> None:
    raise ValueError("a bug")


MARKS: dict[bytes, Callable[[], object]] = {
    b"": lambda: None,
    b"hang": lambda: time.sleep(3600),
    b"spin": spin,
    b"spin with the lock": lambda: sum(range(10**13)),  # no other thread of Python gets its turn
    b"crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    b"killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    b"grow": grow,
    b"grow in Pillow": grow_in_pillow,
    b"bug": bug,
    b"print": lambda: os.write(1, b"a library's line\n"),
}


def marked(data: bytes, out: Any, **options: Any) -> None:
    MARKS[data.partition(MARK)[2]]()
    decode_into(data, out, **options)


if __name__ == "__main__":
    decoder_program.decode_into = marked  # type: ignore[attr-defined]
    decoder_program.main(int(sys.argv[1]))
