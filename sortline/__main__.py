"""The command `sortline`, and `python -m sortline`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. `sortline worker` runs under a small parent process, which must not load the rest."""
    if sys.argv[1:2] == ["worker"]:
        from worker.parent.process import start_worker

        start_worker()
    from sortline.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
