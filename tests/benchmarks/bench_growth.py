"""Time and peak memory against the length of the song: linear the one, flat the other.

Run from the checkout's top level: python -m tests.benchmarks.bench_growth [--long]

The default model at one step, each song in a fresh process; `--long` adds three hours. Linux only.
"""

import sys
import tempfile
from pathlib import Path

from tests.support.costs import time_and_memory

MINUTES = (3, 30)
LONG = 180


def main() -> None:
    lengths = (*MINUTES, LONG) if "--long" in sys.argv else MINUTES
    with tempfile.TemporaryDirectory() as name:
        for minutes in lengths:
            seconds, megabytes = time_and_memory(minutes, Path(name), "default")
            print(
                f"{minutes:4d} minutes: {seconds:7.1f} s, {seconds / minutes:5.2f} s a minute,"
                f" peak memory {megabytes:5d} MB"
            )


if __name__ == "__main__":
    main()
