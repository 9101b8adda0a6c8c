"""Sixteen songs in one process and in several: wall time, CPU time and memory, from the start.

Run from the checkout's top level: python -m tests.benchmarks.bench_workers [--rounds N]
Linux only. The kinds of runs alternate, and medians are printed, as other work comes and goes.
"""

import argparse
import ctypes
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.support.songs import write_songs

KINDS = {
    "one by one": ["--batch-size", "1"],
    "side by side": [],
    "2 workers": ["--workers", "2"],
    "2 workers, 4 songs each": ["--workers", "2", "--batch-size", "4"],
}
PR_SET_CHILD_SUBREAPER = 36


def memory_of(mark: str) -> tuple[int, int]:
    """The memory of all processes with a mark in their environment, and of the largest one.

    In bytes; what processes share is divided among them (PSS).
    """
    sizes = [0]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found = re.search(r"Pss:\s+(\d+) kB", (folder / "smaps_rollup").read_text())
                sizes.append(1024 * int(found[1]) if found else 0)
        except OSError:  # it has ended
            continue
    return sum(sizes), max(sizes)


def measure(folder: Path, options: list[str]) -> tuple[float, float, float, int, int]:
    """Seconds to the end and to the first song, CPU seconds; memory of all, and of the largest."""
    mark = f"BENCH_WORKERS={time.monotonic_ns()}"
    name, _, value = mark.partition("=")
    arguments = [str(folder / "in"), "-o", str(folder / "out"), "--force", "--json", "-q", *options]
    command = [sys.executable, "-m", "spectro_render", *arguments]
    before, begin, peak, is_over = cpu_seconds(), time.perf_counter(), (0, 0), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.25):
            peak = max(peak, memory_of(mark))

    watcher = threading.Thread(target=watch)
    watcher.start()
    environment = {**os.environ, name: value}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - begin
        process.stdout.read()
    seconds = time.perf_counter() - begin
    assert process.returncode == 0
    is_over.set()
    watcher.join()
    while True:  # the server of the workers, which ends after the program
        try:
            os.wait()
        except ChildProcessError:
            break
    return seconds, first, cpu_seconds() - before, *peak


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=1, help="of each song")
    chosen = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        music = chosen.copies * write_songs(folder / "in")
        for path in sorted((folder / "in").iterdir()):
            for copy in range(1, chosen.copies):
                path.with_stem(f"{path.stem}-{copy}").write_bytes(path.read_bytes())
        rounds: list[dict[str, tuple[float, float, float, int, int]]] = []
        for number in range(chosen.rounds):
            rounds.append({kind: measure(folder, options) for kind, options in KINDS.items()})
            walls = ", ".join(f"{made[0]:.2f}" for made in rounds[-1].values())
            print(f"round {number + 1}: {walls} s", flush=True)
    print(f"{music:.0f} s of music; medians of {chosen.rounds} rounds:")
    for kind in KINDS:
        runs = [made[kind] for made in rounds]
        seconds, first, cpu, memory, largest = map(statistics.median, zip(*runs, strict=True))
        gain = statistics.median(made["one by one"][0] / made[kind][0] for made in rounds)
        print(f"  {kind:24s} {seconds:6.2f} s, {gain:.2f} x; first song {first:5.2f} s;", end="")
        print(f" CPU {cpu:6.2f} s; memory {memory / 1e6:.0f} MB, largest {largest / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
