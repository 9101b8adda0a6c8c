"""What starting costs: `--help`, imports, and a song until its first 100 000 bytes of sound.

Run from the checkout's top level: python -m tests.benchmarks.bench_start
"""

import os
import subprocess
import sys
import time
from pathlib import Path

DEMO = Path(__file__).parents[2] / "docs" / "demo.mid"
PROGRAM = [sys.executable, "-m", "spectro_render"]
REPEATS = 5
FIRST_BYTES = 100_000  # 3.1 s of 16 bit

COMMANDS = {
    "--help": [*PROGRAM, "--help"],
    "imports: torch alone": [sys.executable, "-c", "import torch"],
    "imports: all that a song needs": [
        sys.executable,
        "-c",
        "from spectro_render.midi import read_midi; read_midi(input())",
    ],
    "song.mid -o - | head -c 100000": [*PROGRAM, str(DEMO), "-o", "-"],
}


def start(command: list[str]) -> tuple[float, float]:
    """Wall seconds until the first bytes (or the end); CPU seconds of the whole process.

    The latter include what it renders before it notices that nobody reads on.
    """
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(f"{DEMO}\n".encode())
        process.stdin.close()
        process.stdout.read(FIRST_BYTES)
        wall = time.perf_counter() - begin
        process.stdout.close()  # what `head` does when it has enough
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    return wall, used.ru_utime + used.ru_stime


def main() -> None:
    print(f"best of {REPEATS} fresh processes:               wall      CPU")
    for name, command in COMMANDS.items():
        walls, cpus = zip(*(start(command) for _ in range(REPEATS)), strict=True)
        print(f"  {name:32s} {min(walls):6.2f} s {min(cpus):6.2f} s")


if __name__ == "__main__":
    main()
