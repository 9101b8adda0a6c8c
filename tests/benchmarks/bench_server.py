"""How fast a warm server renders the example: its first sound, all of it, and its CPU time.

Run from the checkout's top level: python -m tests.benchmarks.bench_server [PARAMETERS]

PARAMETERS are those of a request, such as "full_band=on&sample_rate=48000". The server is a process
of its own on this machine, and each song is one request, whose sound is read as it comes.
"""

import os
import statistics
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

from spectro_render.midi.read import read_midi

DEMO = Path(__file__).parents[2] / "docs" / "demo.mid"
SERVER = [sys.executable, "-m", "spectro_render", "serve", "--port", "0"]
REPEATS = 5


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far, as Linux says."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def render(address: str, parameters: str) -> tuple[float, float]:
    """Wall seconds until the first sound, and until all has come."""
    connection = HTTPConnection(address, timeout=120)
    begin = time.perf_counter()
    connection.request("POST", f"/render?{parameters}", DEMO.read_bytes())
    response = connection.getresponse()
    assert response.status == 200, response.read()
    response.read(1000)  # more than a header
    first = time.perf_counter() - begin
    response.read()
    whole = time.perf_counter() - begin
    connection.close()
    return first, whole


def main() -> None:
    parameters = sys.argv[1] if len(sys.argv) > 1 else ""
    with subprocess.Popen(SERVER, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            address = server.stderr.readline().partition("http://")[2].partition(";")[0]
            render(address, parameters)  # warm
            rows = []
            for _ in range(REPEATS):
                before = cpu_seconds(server.pid)
                times = render(address, parameters)
                rows.append((*times, cpu_seconds(server.pid) - before))
        finally:
            server.terminate()
    first, whole, used = map(statistics.median, zip(*rows, strict=True))
    seconds = read_midi(DEMO).duration
    print(
        f"medians of {REPEATS} songs: first sound after {first:.2f} s, all after {whole:.2f} s"
        f" ({seconds / whole:.1f} times real time), {used:.2f} s of CPU time"
    )


if __name__ == "__main__":
    main()
