"""Renders tasks on the machines of a Ray cluster.

Each `Worker` has a GPU or some CPU cores, and loads the model. Only this process touches the user's
files: it reads songs, opens their outputs, sends the songs to workers and writes the outputs. If a
worker is lost, its songs are sent to other workers.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import math
import os
import signal
import socket
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectro_render import __version__
from spectro_render.batch.ray_worker import (
    FinishedFile,
    MakeEngine,
    Report,
    SendableEvent,
    Worker,
    WorkerReady,
    make_engine,
)
from spectro_render.batch.tasks import Begun, Cluster, Event, Settings, Task, discard
from spectro_render.checkpoints.find import available_models, bytes_of, fingerprint_of
from spectro_render.checkpoints.manifest import VOCODERS
from spectro_render.errors import (
    EngineError,
    MidiError,
    OptionError,
    OutputError,
    SpectroRenderError,
)
from spectro_render.options import Progress
from spectro_render.report import Reporter, count

if TYPE_CHECKING:
    import ray

    from spectro_render.audio.destination import Destination
    from spectro_render.checkpoints.manifest import ModelFiles

CORES = 4  # per worker, without GPUs and for a large model
# Models below this size (bytes) run with one core per worker, which is fastest (bench_cluster).
SMALL_MODEL = 150_000_000
SONGS = 8  # at once per worker, until a worker has reported its own number
MOST_LOSSES = 3  # workers that are lost with one song, or in a row while they start
REPORT_SECONDS = 1.0  # time between two reports of a worker; it is longer if there are many
MOST_REPORTS = 50  # reports per second of all workers together
MACHINES_SECONDS = 2.0  # time between two checks for new machines
STARTING_SECONDS = 60.0  # how long a share of the songs is kept for a worker that is starting
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


@dataclass(eq=False)
class _OpenTask:
    """A task that is not over, and where it failed so far."""

    task: Task
    number: int
    losses: int = 0  # number of workers that were lost while they had it
    nodes: set[str] = field(default_factory=set)  # machines on which it was lost or failed
    is_reported: bool = False  # whether its beginning is reported

    @property
    def is_suspect(self) -> bool:
        """Whether it may have killed its workers. Then it is tried last on a worker of its own."""
        return self.losses == MOST_LOSSES - 1


@dataclass(eq=False)
class _Member:
    """The state of a worker, as far as this process knows it."""

    actor: Any
    call: ray.ObjectRef[Any] | None  # the call that it is working on; None if it is idle
    started: float  # time.monotonic()
    ready: WorkerReady | None = None  # None: it is still loading the model
    songs: dict[int, _OpenTask] = field(default_factory=dict)

    @property
    def node(self) -> str:
        return self.ready.node if self.ready else ""

    @property
    def name(self) -> str:
        return f"a worker on {self.ready.host}" if self.ready else "a worker"

    def has_room(self, share: int) -> bool:
        """Whether it can get one more song now; no worker gets more than `share` songs."""
        if self.ready is None or self.call is not None:
            return False
        is_alone = any(song.is_suspect for song in self.songs.values())
        return not is_alone and len(self.songs) < min(self.ready.size, share)


class RayEngine:
    """An Engine that renders on the machines of a Ray cluster."""

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
            raise EngineError("Ray is not installed", "pip install 'spectro-render[ray]'")
        if ":" in settings.model.device:
            raise OptionError("Ray chooses the GPU of each worker", "use --device cuda")
        self._settings, self._reporter, self._cluster = settings, reporter, cluster
        self._find_model, self._make_engine = find_model, make_engine
        self.on_progress: Callable[[Task, Progress], None] = lambda task, progress: None
        self._numbers = itertools.count()
        self._queue: deque[_OpenTask] = deque()
        self._suspects: deque[_OpenTask] = deque()
        self._members: list[_Member] = []
        self._events: list[tuple[Task, Event]] = []
        self._share: _Share | None = None  # None: not connected
        self._room = 1  # number of workers that fit
        self._most_songs = 0  # songs at once, as their outputs are open files
        self._next_check = 0.0  # time.monotonic() of the next check for machines
        self._waiting_since = 0.0
        self._is_waiting_reported = False
        self._failed_starts = 0  # workers lost in a row before they were ready
        self._fatal: SpectroRenderError | None = None  # raised when all events are returned
        self._undo = ExitStack()

    @property
    def has_room(self) -> bool:
        """Whether one more task may begin; workers that are still starting count."""
        if self._share is None:
            return True
        sizes = [member.ready.size for member in self._members if member.ready]
        size = max(sizes, default=self._settings.batch_size or SONGS)
        return self._unfinished < min(max(1, self._room) * size, self._most_songs)

    @property
    def _unfinished(self) -> int:
        held = sum(len(member.songs) for member in self._members)
        return len(self._queue) + len(self._suspects) + held

    def begin(self, task: Task) -> None:
        """Begin a task; the first one connects to the cluster.

        Raises EngineError if there is no cluster, WeightsError if there is no model.
        """
        if self._share is None:
            self._connect()
        song = _OpenTask(task, next(self._numbers))
        self._queue.append(song)
        try:
            if self._unfinished == self._room:  # now all workers have work, and starting takes time
                self._start_workers()
        except BaseException:
            self._queue.remove(song)
            raise

    def advance(self) -> list[tuple[Task, Event]]:
        """Send songs to workers, and wait for reports. Raises EngineError."""
        import ray

        if self._fatal is not None:
            raise self._fatal
        self._start_workers()
        self._hand_out()
        calls = {member.call: member for member in self._members if member.call is not None}
        if not calls:
            time.sleep(0.1)  # until the next check for machines
        elif not self._events:
            ray.wait(list(calls), timeout=MACHINES_SECONDS)
            done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
            for call in done:
                self._receive(calls[call])
                if self._events or self._fatal:
                    break  # so that a finished file is reported before anything can fail
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Give up all tasks that are not over, and leave the cluster."""
        held = [song for member in self._members for song in member.songs.values()]
        for song in (*self._queue, *self._suspects, *held):
            discard(song.task.output)
        for songs in (self._queue, self._suspects, self._members):
            songs.clear()
        self._undo.close()
        self._share = None

    # --- workers ------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect to the cluster, or start one, and choose what each worker gets."""
        choice, files = self._settings.model, self._find_model()
        self._fingerprint = fingerprint_of(files)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # if a cluster is started here
        import ray

        # Ray reports lost machines on standard output, where the sound may be written.
        silence = self._undo.enter_context(open(os.devnull, "w"))
        self._undo.enter_context(redirect_stdout(silence))
        address = self._cluster.address or os.environ.get("RAY_ADDRESS")
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _check_address(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
            where = f" at {address}" if address else ""
            hint = "check --ray-address, or start one with 'ray start --head'"
            raise EngineError(f"no Ray cluster{where}: {_first_line(error)}", hint) from error
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
        self._settings = replace(self._settings, model=there)
        self._most_songs = _allow_open_files() // 2
        self._waiting_since = time.monotonic()

    def _start_workers(self) -> None:
        """Start or stop workers, so that there are as many as fit and have work."""
        import ray

        now = time.monotonic()
        if now < self._next_check:
            return
        assert self._share is not None
        pause = MACHINES_SECONDS * 2 ** min(self._failed_starts, 5)
        self._next_check = now + min(pause, STARTING_SECONDS)
        machines = sum(self._share.room_in(machine) for machine in _machines())
        self._room = self._cluster.workers or machines
        wanted = min(max(1, self._room), self._unfinished)
        idle = [member for member in self._members if not member.songs]
        idle.sort(key=lambda member: member.ready is not None)  # those that are not ready first
        for member in idle[: max(0, len(self._members) - wanted)]:
            self._stop_worker(member)
        make: Any = ray.remote(num_cpus=self._share.cores, num_gpus=self._share.gpus)(Worker)
        while len(self._members) < wanted:
            actor = make.remote(self._settings, self._share.cores, self._make_engine)
            self._members.append(_Member(actor, actor.start.remote(), now))
        self._check_waiting(now, machines)

    def _check_waiting(self, now: float, machines: int) -> None:
        """Report once that no worker is ready. Raises EngineError if no machine is large enough."""
        waited = now - self._waiting_since
        is_ready = any(member.ready for member in self._members)
        if is_ready:
            self._waiting_since = now
        elif not self._is_waiting_reported and (not machines or waited > STARTING_SECONDS):
            self._is_waiting_reported = True
            lack = f"{self._share} free" if machines else str(self._share)
            self._reporter.say(f"no machine of the cluster has {lack} yet; waiting for one")
        if not is_ready and not machines and waited > WAITING_SECONDS:
            message = f"no machine of the cluster has {self._share}"
            hint = "add such a machine, or ask for less with --ray-cores or --device cpu"
            raise EngineError(message, hint)

    def _stop_worker(self, member: _Member) -> None:
        import ray

        self._members.remove(member)
        with suppress(ray.exceptions.RayError):
            ray.kill(member.actor)

    def _admit(self, member: _Member, ready: WorkerReady) -> None:
        """Check that a worker has this machine's program and model. Raises EngineError."""
        if ready.version != __version__:
            message = f"{ready.host} has version {ready.version} of spectro-render, not "
            raise EngineError(message + __version__, "install the same version everywhere")
        if ready.fingerprint != self._fingerprint:
            message = (
                f"the model {self._settings.model.name} on {ready.host} differs from the one here"
            )
            raise EngineError(
                message, "install the same model everywhere, or name OWNER/REPO@REVISION"
            )
        member.ready = ready
        self._failed_starts = 0

    def _lose(self, member: _Member, error: Exception) -> None:
        """Give up a worker, and put back its songs. Raises EngineError if no worker starts."""
        self._stop_worker(member)
        songs = list(member.songs.values())
        to_others = f"; {count(len(songs), 'song')} for other workers" if songs else ""
        self._reporter.say(f"{member.name} is lost ({_first_line(error)}){to_others}")
        for song in reversed(songs):
            self._lose_song(song, member.node)
        if member.ready is None:
            self._failed_starts += 1
            if self._failed_starts >= MOST_LOSSES and not self._members:
                message = f"no worker can be started: {_first_line(error)}"
                hint = "install spectro-render on all machines; Ray's logs may say more"
                raise EngineError(message, hint)

    def _lose_song(self, song: _OpenTask, node: str) -> None:
        """Put back a song whose worker was lost, or report that it failed."""
        song.losses += 1
        song.nodes.add(node)
        if song.losses == MOST_LOSSES:
            message = f"{MOST_LOSSES} workers were lost while rendering it"
            hint = "use machines with more memory; Ray's logs may say more"
            lost = SpectroRenderError(message, hint)
            discard(song.task.output)
            self._events.append((song.task, lost))
        elif song.is_suspect:
            self._suspects.append(song)
        else:
            self._queue.appendleft(song)

    @property
    def _starting(self) -> list[_Member]:
        """Workers that are expected to be ready soon."""
        if self._failed_starts >= MOST_LOSSES:
            return []
        since = time.monotonic() - STARTING_SECONDS
        return [other for other in self._members if not other.ready and other.started > since]

    # --- songs --------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Send songs to idle workers, evenly, and let them render."""
        ready = [member for member in self._members if member.ready]
        expected = [*ready, *self._starting]
        share = math.ceil(self._unfinished / max(1, len(expected)))
        free = {member for member in ready if member.call is None}
        given: dict[_Member, list[_OpenTask]] = {member: [] for member in free}
        if self._suspects and ready:
            first = min(_elsewhere(ready, self._suspects[0]), key=_load)
            if first in free and not first.songs:
                self._give(first, self._suspects.popleft(), given)
            free.discard(first)  # until its other songs are done
        passed_over: list[_OpenTask] = []  # songs that wait for another machine
        while self._queue and any(member.has_room(share) for member in free):
            song = self._queue.popleft()
            able = [m for m in _elsewhere(expected, song) if m in free and m.has_room(share)]
            if able:
                self._give(min(able, key=_load), song, given)
            else:
                passed_over.append(song)
        self._queue.extendleft(reversed(passed_over))
        seconds = max(REPORT_SECONDS, len(self._members) / MOST_REPORTS)
        for member, new in given.items():
            if member.songs:
                songs = [(song.number, song.task.job, song.task.data) for song in new]
                member.call = member.actor.render.remote(songs, seconds)

    @staticmethod
    def _give(member: _Member, song: _OpenTask, given: dict[_Member, list[_OpenTask]]) -> None:
        member.songs[song.number] = song
        given[member].append(song)

    def _receive(self, member: _Member) -> None:
        """Handle the result of a worker's call."""
        import ray

        assert member.call is not None
        call, member.call = member.call, None
        try:
            result: WorkerReady | Report = ray.get(call)
            if isinstance(result, WorkerReady):
                self._admit(member, result)
                return
            for number, event in result.events:
                self._handle_event(member, member.songs[number], event)
            for number, progress in result.progress.items():
                if number in member.songs:
                    self.on_progress(member.songs[number].task, progress)
            return
        except ray.exceptions.RayTaskError as error:  # a model that cannot be loaded, or a bug
            failure = error.cause or error
        except (ray.exceptions.RayError, EngineError) as error:
            failure = error
        others = [other for other in self._members if other is not member and other.ready]
        if isinstance(failure, SpectroRenderError) and not others:
            self._fatal = failure
            return
        try:
            self._lose(member, failure)
        except SpectroRenderError as error:
            self._fatal = error

    def _handle_event(self, member: _Member, song: _OpenTask, sent: SendableEvent) -> None:
        """Handle an event that a worker has sent. Raises RayError if the sound is lost."""
        import ray

        if isinstance(sent, Begun):
            if not song.is_reported:  # else another worker has begun it before
                self._events.append((song.task, sent))
            song.is_reported = True
            return
        event: Event
        if isinstance(sent, FinishedFile):
            data = memoryview(ray.get(sent.data))
            event = _write(data, song.task.output) or sent.finished
        elif self._can_retry_elsewhere(sent, song, member):
            del member.songs[song.number]
            self._lose_song(song, member.node)
            return
        else:
            discard(song.task.output)
            event = sent
        del member.songs[song.number]
        self._events.append((song.task, event))

    def _can_retry_elsewhere(self, error: Exception, song: _OpenTask, member: _Member) -> bool:
        """Whether to try a failed song on another machine, as the first may have a full disk."""
        if isinstance(error, (MidiError, OptionError)) or song.nodes:
            return False
        ready = [other for other in self._members if other.ready]
        return any(other.node != member.node for other in [*ready, *self._starting])


def _check_address(address: str | None) -> None:
    """Raise OSError if nothing answers at the address, where Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _machines() -> list[dict[str, Any]]:
    """Ray's description of each machine."""
    import ray

    nodes: Any = ray.nodes
    return list(nodes())


def _elsewhere(members: list[_Member], song: _OpenTask) -> list[_Member]:
    """The workers on machines where a song was not lost yet; if there are none, all workers."""
    return [member for member in members if member.node not in song.nodes] or members


def _load(member: _Member) -> int:
    return len(member.songs)


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


def _first_line(error: Exception) -> str:
    """The first line of an error, as Ray's errors may be very long."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = [line.strip() for line in str(error).splitlines()]
    return textwrap.shorten(next(filter(None, lines), type(error).__name__), 120).rstrip(".")
