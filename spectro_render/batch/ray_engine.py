"""Renders tasks on the machines of a Ray cluster.

Each worker has a GPU or some CPU cores. Songs are sent to it as bytes, and so are outputs, which
this process writes.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectro_render import __version__
from spectro_render.batch.engine import make_engine
from spectro_render.batch.jobs import Job
from spectro_render.batch.ray_worker import FinishedFile, RayWorker, WorkerReady
from spectro_render.batch.tasks import Cluster, Event, Settings, Task, discard
from spectro_render.batch.worker import MakeEngine, Report
from spectro_render.batch.worker_engine import (
    STARTING_SECONDS,
    Member,
    OpenTask,
    WorkerEngine,
    WorkerLost,
    first_line,
)
from spectro_render.checkpoints.find import available_models, bytes_of, fingerprint_of
from spectro_render.checkpoints.manifest import VOCODERS
from spectro_render.errors import EngineError, OptionError, OutputError, install_hint
from spectro_render.report import Reporter, count

if TYPE_CHECKING:
    import ray

    from spectro_render.audio.destination import Destination
    from spectro_render.checkpoints.manifest import ModelFiles

CORES = 4  # per worker, without GPUs and for a large model
# Models below this size (bytes) run with one core per worker, which is fastest (bench_cluster).
SMALL_MODEL = 150_000_000
SONGS = 8  # at once per worker, until a worker has reported its own number
REPORT_SECONDS = 1.0  # time between two reports of a worker; it is longer if there are many
MOST_REPORTS = 50  # reports per second of all workers together
MACHINES_SECONDS = 2.0  # time between two checks for new machines
WAITING_SECONDS = 300.0  # how long to wait for a machine that is large enough
CONNECT_SECONDS = 10.0
BLOCK = 2**20  # bytes written at a time; that much stays in the processor's cache


@dataclass(frozen=True)
class _Share:
    """The cores or the GPU of a machine that one worker takes."""

    cores: int
    gpus: int

    def __str__(self) -> str:
        return "a GPU" if self.gpus else count(self.cores, "core")

    def room_in(self, machine: dict[str, Any]) -> int:
        """The number of workers that fit on a machine, which is an item of `ray.nodes()`."""
        has = machine["Resources"] if machine["Alive"] else {}
        return int(has.get("GPU", 0)) if self.gpus else int(has.get("CPU", 0)) // self.cores


def _choose_share(
    device: str, cores: int | None, machines: list[dict[str, Any]], model_bytes: Callable[[], int]
) -> _Share:
    """Choose what each worker gets: a GPU, if the device allows it and there is one, or cores."""
    alive = [machine["Resources"] for machine in machines if machine["Alive"]]
    if device == "cuda" or (device == "auto" and any(has.get("GPU", 0) for has in alive)):
        return _Share(1, gpus=1)
    if cores is None:
        most = max((int(has.get("CPU", 0)) for has in alive), default=0)
        cores = 1 if model_bytes() < SMALL_MODEL else min(CORES, most or CORES)
    return _Share(cores, gpus=0)


class _Remote:
    """A Ray actor, and the call that it is working on."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.call: ray.ObjectRef[Any] = actor.start.remote()

    def render(self, songs: Sequence[tuple[int, Job, bytes]], seconds: float) -> None:
        """Call `Worker.render`."""
        self.call = self._actor.render.remote(songs, seconds)

    def result(self) -> WorkerReady | Report[FinishedFile]:
        """The result of the call. Raises WorkerLost, or the error that the worker raised."""
        import ray

        try:
            result: WorkerReady | Report[FinishedFile] = ray.get(self.call)
            return result
        except ray.exceptions.RayTaskError as error:  # a model that cannot be loaded, or a bug
            raise error.cause or error from None
        except ray.exceptions.RayError as error:
            raise WorkerLost(first_line(error)) from error

    def stop(self) -> None:
        """End the actor at once."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.kill(self._actor)


class RayEngine(WorkerEngine[WorkerReady, FinishedFile]):
    """An Engine that renders on the machines of a Ray cluster."""

    most_losses = 3
    lost_hint = "use machines with more memory; Ray's logs may say more"
    start_hint = "install spectro-render on all machines; Ray's logs may say more"

    def __init__(
        self,
        settings: Settings,
        reporter: Reporter,
        cluster: Cluster,
        find_model: Callable[[], ModelFiles],
        make_engine: MakeEngine = make_engine,
    ) -> None:
        """Prepare the engine; the first task connects to the cluster.

        `find_model` finds the model on this machine, with which the workers' models are compared.
        Raises EngineError if Ray is missing, OptionError if the device names a certain GPU.
        """
        if importlib.util.find_spec("ray") is None:
            raise EngineError("Ray is not installed", install_hint("ray"))
        if ":" in settings.model.device:
            raise OptionError("Ray chooses the GPU of each worker", "use --device cuda")
        super().__init__(settings, reporter)
        self._cluster, self._find_model, self._make_engine = cluster, find_model, make_engine
        self._share: _Share | None = None  # None: not connected
        self._room = 1  # number of workers that fit
        self._most_songs = 0  # songs at once, as their outputs are open files
        self._next_check = 0.0  # time.monotonic() of the next check for machines
        self._waiting_since = 0.0
        self._is_waiting_reported = False
        self._undo = ExitStack()

    @property
    def has_room(self) -> bool:
        """Whether one more task may begin; workers that are still starting count."""
        if self._share is None:
            return True
        sizes = [member.size for member in self.members if member.is_ready]
        size = max(sizes, default=self.settings.batch_size or SONGS)
        return self.unfinished < min(max(1, self._room) * size, self._most_songs)

    def begin(self, task: Task) -> None:
        """Begin a task; the first one connects to the cluster.

        Raises EngineError if there is no cluster, WeightsError if there is no model.
        """
        if self._share is None:
            self._connect()
        self.enqueue(task)
        try:
            if self.unfinished == self._room:  # now all workers have work, and starting takes time
                self.start_workers()
        except BaseException:
            self.withdraw(task)
            raise

    def stop(self) -> None:
        """Give up all tasks that are not over, and leave the cluster."""
        super().stop()
        self._undo.close()
        self._share = None

    def report_seconds(self) -> float:
        """The time between two reports of a worker, which is longer if there are many."""
        return max(REPORT_SECONDS, len(self.members) / MOST_REPORTS)

    def first_done(self, timeout: float) -> list[Member[WorkerReady, FinishedFile]]:
        """Wait until some calls are done."""
        import ray

        calls = {
            member.remote.call: member
            for member in self.members
            if member.is_called and isinstance(member.remote, _Remote)
        }
        ray.wait(list(calls), timeout=timeout)
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return [calls[call] for call in done]

    def complete(self, song: OpenTask, made: FinishedFile) -> Event:
        """Fetch the bytes of a song and write them. Raises WorkerLost if they are lost."""
        import ray

        try:
            data = memoryview(ray.get(made.data))
        except ray.exceptions.RayError as error:
            raise WorkerLost(first_line(error)) from error
        return _write(data, song.task.output) or made.finished

    # --- workers ------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect to the cluster, or start one, and choose what each worker gets."""
        choice, files = self.settings.model, self._find_model()
        self._fingerprint = fingerprint_of(files)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # if a cluster is started here
        import ray

        # Ray reports lost machines on standard output, where the sound may be written.
        silence = self._undo.enter_context(open(os.devnull, "w"))
        self._undo.enter_context(redirect_stdout(silence))
        address = self._cluster.address or os.environ.get("RAY_ADDRESS")
        if address is None and not _current_cluster_answers():
            address = "local"  # a cluster of this machine alone
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _check_address(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
            where = f" at {address}" if address not in (None, "local") else ""
            hint = "check --ray-address, or start one with 'ray start --head'"
            raise EngineError(f"no Ray cluster{where}: {first_line(error)}", hint) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray replaces it
        self._undo.callback(ray.shutdown)
        device, machines = choice.device, _machines()
        self._share = _choose_share(device, self._cluster.cores, machines, lambda: bytes_of(files))
        self._room = self._cluster.workers or sum(map(self._share.room_in, machines))
        device = ("cuda" if self._share.gpus else "cpu") if device == "auto" else device
        name, vocoder = _absolute(choice.name), choice.vocoder and _absolute(choice.vocoder)
        there = replace(choice, name=name, vocoder=vocoder, device=device)
        self.settings = replace(self.settings, model=there)
        self._most_songs = _allow_open_files() // 2
        self._waiting_since = time.monotonic()

    def start_workers(self) -> None:
        """Start or stop workers, so that there are as many as fit and have work."""
        import ray

        now = time.monotonic()
        if now < self._next_check:
            return
        assert self._share is not None
        pause = MACHINES_SECONDS * 2 ** min(self.failed_starts, 5)
        self._next_check = now + min(pause, STARTING_SECONDS)
        machines = sum(self._share.room_in(machine) for machine in _machines())
        self._room = self._cluster.workers or machines
        wanted = min(max(1, self._room), self.unfinished)
        idle = [member for member in self.members if not member.songs]
        idle.sort(key=lambda member: member.is_ready)  # those that are not ready first
        for member in idle[: max(0, len(self.members) - wanted)]:
            self.stop_worker(member)
        make: Any = ray.remote(num_cpus=self._share.cores, num_gpus=self._share.gpus)(RayWorker)
        while len(self.members) < wanted:
            actor = make.remote(self.settings, self._share.cores, self._make_engine)
            self.members.append(Member(_Remote(actor), now))
        self._check_waiting(now, machines)

    def _check_waiting(self, now: float, machines: int) -> None:
        """Report once that no worker is ready. Raises EngineError if no machine is large enough."""
        waited = now - self._waiting_since
        is_ready = any(member.is_ready for member in self.members)
        if is_ready:
            self._waiting_since = now
        elif not self._is_waiting_reported and (not machines or waited > STARTING_SECONDS):
            self._is_waiting_reported = True
            lack = f"{self._share} free" if machines else str(self._share)
            self.reporter.say(f"no machine of the cluster has {lack} yet; waiting for one")
        if not is_ready and not machines and waited > WAITING_SECONDS:
            message = f"no machine of the cluster has {self._share}"
            hint = "add such a machine, or ask for less with --ray-cores or --device cpu"
            raise EngineError(message, hint)

    def admit(self, member: Member[WorkerReady, FinishedFile], ready: WorkerReady) -> None:
        """Check that a worker has this machine's program and model. Raises EngineError."""
        if ready.version != __version__:
            message = f"{ready.host} has version {ready.version} of spectro-render, not "
            raise EngineError(message + __version__, "install the same version everywhere")
        if ready.fingerprint != self._fingerprint:
            message = (
                f"the model {self.settings.model.name} on {ready.host} differs from the one here"
            )
            raise EngineError(
                message, "install the same model everywhere, or name OWNER/REPO@REVISION"
            )
        member.size, member.host, member.node = ready.size, ready.host, ready.node


def _check_address(address: str | None) -> None:
    """Raise OSError if nothing answers at the address, where Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _current_cluster_answers() -> bool:
    """Whether the cluster answers that Ray started last on this machine; True if there is none.

    Ray would wait for minutes for a cluster whose head was killed.
    """
    folder = os.environ.get("RAY_TMPDIR") or (
        (sys.platform == "linux" and os.environ.get("TMPDIR"))
        or ("/tmp" if sys.platform == "darwin" else tempfile.gettempdir())
    )
    try:
        _check_address(Path(folder, "ray", "ray_current_cluster").read_text().strip())
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _machines() -> list[dict[str, Any]]:
    """Ray's description of each machine."""
    import ray

    nodes: Any = ray.nodes
    return list(nodes())


def _write(data: memoryview, output: Destination) -> Exception | None:
    """Write the bytes of an output; returns the error if that fails."""
    try:
        for start in range(0, len(data), BLOCK):
            output.write(data[start : start + BLOCK])
        output.commit()
    except (OSError, OutputError) as error:
        discard(output)
        return error
    return None


def _absolute(name: str) -> str:
    """Make the path of a model or vocoder absolute; other names stay as they are."""
    is_path = name not in (*VOCODERS, *available_models()) and os.path.exists(name)
    return os.path.abspath(name) if is_path else name


def _allow_open_files() -> int:
    """Raise the limit on open files as far as the system allows, and return the new limit."""
    if sys.platform == "win32":
        return 512
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return allowed if allowed != resource.RLIM_INFINITY else 2**20
