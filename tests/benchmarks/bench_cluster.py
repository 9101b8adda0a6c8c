"""How much faster a cluster of more machines is, and what a song costs the one that hands out.

Run from the checkout's top level: python -m tests.benchmarks.bench_cluster [--planned N]. All
nodes are on this machine, with one core each as far as Ray knows. Where there are more of them than
cores, rendering is simulated: a worker sleeps for SECONDS a song, and gives silence.
"""

import argparse
import contextlib
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from spectro_render.batch import tasks
from spectro_render.batch.batch import Batch
from spectro_render.batch.engine import LocalEngine, make_engine
from spectro_render.batch.history import History
from spectro_render.batch.jobs import Job, plan_jobs
from spectro_render.batch.ray_engine import RayEngine
from spectro_render.batch.tasks import Begun, Finished, Settings, Task
from spectro_render.batch.worker import MakeEngine
from spectro_render.checkpoints.find import fingerprint_of, resolve_model
from spectro_render.options import Encoding, ModelChoice, Progress, RenderOptions
from spectro_render.report import Reporter
from tests.support.songs import write_songs

SECONDS = 0.5  # of simulated rendering
SILENCE = bytes(850_000)  # as much as three minutes of Ogg Vorbis
NODES = (1, 2, 4, 8)
NODE = {"num_cpus": 1, "object_store_memory": 2 * 10**8}
SETTINGS = Settings(ModelChoice(device="cpu"), RenderOptions(), Encoding("wav"))


class Sleeper:
    """An engine that renders nothing, one song at a time."""

    size = 1

    def __init__(self, settings: Settings, cores: int, *, seconds: float) -> None:
        self.seconds = seconds
        self.task: Task | None = None
        self.on_progress: Callable[[Task, Progress], None] = lambda task, progress: None

    @property
    def is_idle(self) -> bool:
        return self.task is None

    def begin(self, task: Task) -> None:
        self.task = task

    def advance(self) -> list[tuple[Task, tasks.Event]]:
        assert self.task is not None
        time.sleep(self.seconds)
        task, self.task = self.task, None
        task.output.write(SILENCE)
        task.output.commit()
        made = Finished(180.0, self.seconds, 0, "default", "cpu", 16_000)
        return [(task, Begun(0, [], [], [])), (task, made)]


def fingerprint() -> str:
    return fingerprint_of(resolve_model())


@contextlib.contextmanager
def nodes(number: int) -> Iterator[str]:
    """A cluster of so many; its address."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        for _ in range(1, number):
            cluster.add_node(**NODE)
        yield cluster.address
    finally:
        cluster.shutdown()


def run(
    jobs: list[Job], address: str | None, make: MakeEngine = make_engine
) -> tuple[float, float]:
    """Wall and CPU seconds of this process a song, once all workers are at work."""
    reporter = Reporter(quiet=True)
    engine: Any = LocalEngine(SETTINGS, len(jobs), resolve_model)
    if address is not None:
        cluster = tasks.Cluster(address, cores=1)
        engine = RayEngine(SETTINGS, reporter, cluster, resolve_model, make)
    times: list[tuple[float, float]] = []
    batch = Batch(SETTINGS, engine, reporter, fingerprint, force=True, folder=Path("out"))
    finish = batch._finish

    def timed(*arguments: Any) -> None:
        times.append((time.perf_counter(), time.process_time()))
        finish(*arguments)

    batch.__dict__["_finish"] = timed
    assert batch.run(jobs) == 0
    counted = times[len(times) // 4 :]
    wall, cpu = (last - first for first, last in zip(counted[0], counted[-1], strict=True))
    return wall / (len(counted) - 1), cpu / (len(counted) - 1)


def simulate() -> None:
    jobs = empty_songs(20 * NODES[-1])
    print(f"simulated, {SECONDS} s a song:")
    alone = 0.0
    for number in NODES:
        with nodes(number) as address:
            wall, _ = run(jobs[: 20 * number], address, partial(Sleeper, seconds=SECONDS))
        alone = alone or wall
        print(f"  {number} nodes: {1 / wall:5.2f} songs a second, {alone / wall / number:4.0%}")


def hand_out() -> None:
    """What this process does where workers take no time."""
    with nodes(2) as address:
        wall, cpu = run(empty_songs(400), address, partial(Sleeper, seconds=0.0))
    size = len(SILENCE) / 1e6
    print(f"a song handed out, {size:.1f} MB written: {cpu * 1e3:.1f} ms of CPU, {wall * 1e3:.1f}")


def empty_songs(number: int) -> list[Job]:
    os.makedirs("in", exist_ok=True)
    for song in range(number):
        Path("in", f"{song:04d}.mid").write_bytes(bytes(1000))
    return plan_jobs(["in"], "out", "wav")[:number]


def render() -> None:
    """The default model, really; there are two cores."""
    os.mkdir("in")
    write_songs(Path("in"))
    for path in sorted(Path("in").iterdir()):
        for copy in range(3):
            Path("in", f"{path.stem}-{copy}.mid").write_bytes(path.read_bytes())
    jobs = plan_jobs(["in"], "out", "wav")
    print(f"rendered, {len(jobs)} songs of 15 to 22.5 s, seconds a song:")
    print(f"  without Ray, 2 cores: {run(jobs, None)[0]:.3f}")
    for number in (1, 2):
        with nodes(number) as address:
            print(f"  {number} nodes of 1 core: {run(jobs, address)[0]:.3f}")


def plan(songs: int) -> None:
    """What so many songs cost before the first is handed out, and where all are done."""
    for number in range(songs):
        folder = Path("in", f"{number // 1000:04d}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:07d}.mid").touch()
    begin = time.perf_counter()
    plan_jobs(["in"], "out", "wav")
    took = time.perf_counter() - begin
    tracemalloc.start()
    jobs = plan_jobs(["in"], "out", "wav")
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"planning {songs} songs: {took:.1f} s, {memory / songs:.0f} bytes a song")
    Path("out").mkdir()
    history = History(Path("out"), SETTINGS.origin, fingerprint)
    for job in jobs:
        assert job.target is not None
        history.add(job.target, "0" * 64, {"status": "rendered", "input": job.name})
    history.close()
    begin = time.perf_counter()
    history = History(Path("out"), SETTINGS.origin, fingerprint)
    assert jobs[0].target is not None and history.knows(jobs[0].target)
    took = time.perf_counter() - begin
    print(
        f"reading what is known of them: {took:.1f} s, {history.path.stat().st_size / 1e6:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planned", type=int, default=100_000)
    chosen = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for part in (render, simulate, hand_out, partial(plan, chosen.planned)):
        with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
            part()


if __name__ == "__main__":
    main()
