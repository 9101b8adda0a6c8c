"""Renders tasks on the machines of a Ray cluster, each by a `Worker`.

A worker has a GPU, or some cores, and a model of its own. This process alone touches the user's
files: it reads songs, opens their outputs, hands the songs out and writes what comes back. The
songs of a worker that is lost go to others.
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

CORES = 4  # of a worker without a GPU that renders with a large model
# Models below this size (bytes) run with one core per worker, which wastes least (bench_cluster).
SMALL_MODEL = 150_000_000
SONGS = 8  # of a worker, until one has reported its own number
MOST_LOSSES = 3  # workers lost with the same song, or in a row before they were ready
REPORT_SECONDS = 1.0  # between progress reports of a worker; longer with many workers:
MOST_REPORTS = 50  # a second, of all workers together
MACHINES_SECONDS = 2.0  # between looks at which machines there are
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
        """How many workers a machine, as `ray.nodes` tells of it, has room for."""
        has = machine["Resources"] if machine["Alive"] else {}
        return int(has.get("GPU", 0)) if self.gpus else int(has.get("CPU", 0)) // self.cores


def _choose_share(
    device: str, cores: int | None, machines: list[dict[str, Any]], model_bytes: Callable[[], int]
) -> _Share:
    """What each worker takes: a GPU where there is one, unless the device is another."""
    alive = [machine["Resources"] for machine in machines if machine["Alive"]]
    if device == "cuda" or (device == "auto" and any(has.get("GPU", 0) for has in alive)):
        return _Share(1, gpus=1)
    if cores is None:
        most = max((int(has.get("CPU", 0)) for has in alive), default=0)
        cores = 1 if model_bytes() < SMALL_MODEL else min(CORES, most or CORES)
    return _Share(cores, gpus=0)


@dataclass(eq=False)
class _OpenTask:
    """A task that is not over, and where it was tried."""

    task: Task
    number: int
    losses: int = 0  # of workers that had it
    nodes: set[str] = field(default_factory=set)  # where it was lost, or failed
    is_reported: bool = False  # as begun

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what its workers died of: it then gets the last one for itself."""
        return self.losses == MOST_LOSSES - 1


@dataclass(eq=False)
class _Member:
    """A worker as this process knows it."""

    actor: Any
    call: ray.ObjectRef[Any] | None  # the one that it is working on
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
        """Whether it may get one more song now, if it is to have no more than a share of them."""
        if self.ready is None or self.call is not None:
            return False
        is_alone = any(song.is_suspect for song in self.songs.values())
        return not is_alone and len(self.songs) < min(self.ready.size, share)


class RayEngine:
    """An Engine that uses the machines of a Ray cluster."""

    def __init__(
        self,
        settings: Settings,
        reporter: Reporter,
        cluster: Cluster,
        find_model: Callable[[], ModelFiles],
        make_engine: MakeEngine = make_engine,
    ) -> None:
        """The first task connects. Raises EngineError, OptionError for what a worker cannot do.

        `find_model` finds the model here, to compare it with the workers'.
        """
        if importlib.util.find_spec("ray") is None:
            raise EngineError("Ray is not installed", "pip install 'spectro-render[ray]'")
        if ":" in settings.model.device:
            raise OptionError("which GPU a worker gets is for Ray to say", "take --device cuda")
        self._settings, self._reporter, self._cluster = settings, reporter, cluster
        self._find_model, self._make_engine = find_model, make_engine
        self.on_progress: Callable[[Task, Progress], None] = lambda task, progress: None
        self._numbers = itertools.count()
        self._queue: deque[_OpenTask] = deque()
        self._suspects: deque[_OpenTask] = deque()
        self._members: list[_Member] = []
        self._events: list[tuple[Task, Event]] = []
        self._share: _Share | None = None  # None: not connected
        self._room = 1  # for workers
        self._most_songs = 0  # at once: their outputs are open files
        self._look_at = 0.0  # time.monotonic() of the next look at the machines
        self._waiting_since = 0.0
        self._has_said_waiting = False
        self._failed_starts = 0  # workers lost in a row before they were ready
        self._fatal: SpectroRenderError | None = None  # raised after all other events
        self._undo = ExitStack()

    @property
    def has_room(self) -> bool:
        """Whether there is room, or will be once all workers are ready."""
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
        """Take a task and its output. Raises EngineError, WeightsError."""
        if self._share is None:
            self._connect()
        song = _OpenTask(task, next(self._numbers))
        self._queue.append(song)
        try:
            if self._unfinished == self._room:  # as all workers have work, and take time to begin
                self._start_workers()
        except BaseException:
            self._queue.remove(song)
            raise

    def advance(self) -> list[tuple[Task, Event]]:
        """Hand out songs, and wait for news. Raises EngineError."""
        import ray

        if self._fatal is not None:
            raise self._fatal
        self._start_workers()
        self._hand_out()
        calls = {member.call: member for member in self._members if member.call is not None}
        if not calls:
            time.sleep(0.1)  # until it is time to look at the machines again
        elif not self._events:
            ray.wait(list(calls), timeout=MACHINES_SECONDS)
            done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
            for call in done:
                self._listen(calls[call])
                if self._events or self._fatal:
                    break  # so a finished file is reported before anything else can happen
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
        """Join the cluster."""
        choice, files = self._settings.model, self._find_model()
        self._fingerprint = fingerprint_of(files)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # where a cluster begins here
        import ray

        # Ray prints news of lost machines to standard output, which may carry sound.
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
                signal.signal(signal.SIGTERM, handler)  # Ray puts its own there
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
        """Start or stop workers, until there are as many as there is room and work for."""
        now = time.monotonic()
        if now < self._look_at:
            return
        assert self._share is not None
        pause = MACHINES_SECONDS * 2 ** min(self._failed_starts, 5)
        self._look_at = now + min(pause, STARTING_SECONDS)
        machines = sum(self._share.room_in(machine) for machine in _machines())
        self._room = self._cluster.workers or machines
        wanted = min(max(1, self._room), self._unfinished)
        idle = [member for member in self._members if not member.songs]
        idle.sort(key=lambda member: member.ready is not None)  # those that are not ready first
        for member in idle[: max(0, len(self._members) - wanted)]:
            self._stop_worker(member)
        while len(self._members) < wanted:
            self._members.append(self._new_member(self._share, now))
        self._check_waiting(now, machines)

    def _check_waiting(self, now: float, machines: int) -> None:
        """Report once that no worker is ready; raises EngineError where that will not change."""
        waited = now - self._waiting_since
        is_ready = any(member.ready for member in self._members)
        if is_ready:
            self._waiting_since = now
        elif not self._has_said_waiting and (not machines or waited > STARTING_SECONDS):
            self._has_said_waiting = True
            lack = f"{self._share} free" if machines else str(self._share)
            self._reporter.say(f"no machine of the cluster has {lack} yet; waiting for one")
        if not is_ready and not machines and waited > WAITING_SECONDS:
            message = f"no machine of the cluster has {self._share}"
            raise EngineError(message, "add one, or ask for less with --ray-cores or --device cpu")

    def _new_member(self, share: _Share, now: float) -> _Member:
        import ray

        make: Any = ray.remote(num_cpus=share.cores, num_gpus=share.gpus)(Worker)
        actor = make.remote(self._settings, share.cores, self._make_engine)
        return _Member(actor, actor.start.remote(), now)

    def _stop_worker(self, member: _Member) -> None:
        import ray

        self._members.remove(member)
        with suppress(ray.exceptions.RayError):
            ray.kill(member.actor)

    def _admit(self, member: _Member, ready: WorkerReady) -> None:
        """Check that a worker that is ready has the program and the model of this machine."""
        if ready.version != __version__:
            message = f"{ready.host} has version {ready.version} of spectro-render, not "
            raise EngineError(message + __version__, "install the same everywhere")
        if ready.fingerprint != self._fingerprint:
            message = (
                f"{ready.host} has another model {self._settings.model.name} than this machine"
            )
            raise EngineError(message, "install the same everywhere, or give OWNER/REPO@REVISION")
        member.ready = ready
        self._failed_starts = 0

    def _lose(self, member: _Member, error: Exception) -> None:
        """Give the songs of a worker that is lost to others, if they are not to blame."""
        self._stop_worker(member)
        songs = list(member.songs.values())
        to_others = f"; {count(len(songs), 'song')} for others" if songs else ""
        self._reporter.say(f"{member.name} is lost ({_first_line(error)}){to_others}")
        for song in reversed(songs):
            self._lose_song(song, member.node)
        if member.ready is None:
            self._failed_starts += 1
            if self._failed_starts >= MOST_LOSSES and not self._members:
                message = f"no worker gets ready: {_first_line(error)}"
                raise EngineError(message, "is spectro-render installed there? see Ray's logs")

    def _lose_song(self, song: _OpenTask, node: str) -> None:
        """Put back a song that a worker was lost with."""
        song.losses += 1
        song.nodes.add(node)
        if song.losses == MOST_LOSSES:
            message = f"{MOST_LOSSES} workers were lost with it, the last with nothing else"
            lost = SpectroRenderError(message, "give them more memory; see Ray's logs")
            discard(song.task.output)
            self._events.append((song.task, lost))
        elif song.is_suspect:
            self._suspects.append(song)
        else:
            self._queue.appendleft(song)

    def _refuse(self, member: _Member, error: Exception) -> None:
        """Do without a worker that cannot render; where there is no other, nothing can be done."""
        others = [other for other in self._members if other is not member and other.ready]
        if isinstance(error, SpectroRenderError) and not others:
            raise error
        self._lose(member, error)

    @property
    def _coming(self) -> list[_Member]:
        """Workers that will soon be ready."""
        if self._failed_starts >= MOST_LOSSES:
            return []
        since = time.monotonic() - STARTING_SECONDS
        return [other for other in self._members if not other.ready and other.started > since]

    # --- songs --------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give songs to workers that are not at a call, evenly, and let them go on."""
        ready = [member for member in self._members if member.ready]
        expected = [*ready, *self._coming]
        share = math.ceil(self._unfinished / max(1, len(expected)))
        free = {member for member in ready if member.call is None}
        given: dict[_Member, list[_OpenTask]] = {member: [] for member in free}
        if self._suspects and ready:
            first = min(_elsewhere(ready, self._suspects[0]), key=_load)
            if first in free and not first.songs:
                self._give(first, self._suspects.popleft(), given)
            free.discard(first)  # until it has no other
        passed_over: list[_OpenTask] = []  # that wait for another machine than those with room
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

    def _listen(self, member: _Member) -> None:
        """Take what a worker says at the end of a call."""
        import ray

        assert member.call is not None
        call, member.call = member.call, None
        try:
            news = ray.get(call)
            if isinstance(news, WorkerReady):
                self._admit(member, news)
            else:
                self._take(member, news)
            return
        except ray.exceptions.RayTaskError as error:  # a model that cannot be loaded, or a bug
            trouble = error.cause or error
        except (ray.exceptions.RayError, EngineError) as error:
            trouble = error
        try:
            self._refuse(member, trouble)
        except SpectroRenderError as error:
            self._fatal = error

    def _take(self, member: _Member, report: Report) -> None:
        for number, news in report.events:
            self._hear(member, member.songs[number], news)
        for number, progress in report.progress.items():
            if number in member.songs:
                self.on_progress(member.songs[number].task, progress)

    def _hear(self, member: _Member, song: _OpenTask, news: SendableEvent) -> None:
        """Turn a worker's news of a song into an event; raises RayError if its sound is lost."""
        import ray

        if isinstance(news, Begun):
            if not song.is_reported:  # by a worker that had it before
                self._events.append((song.task, news))
            song.is_reported = True
            return
        event: Event
        if isinstance(news, FinishedFile):
            data = memoryview(ray.get(news.data))
            event = _write(data, song.task.output) or news.finished
        elif self._may_be_the_machines(news, song, member):
            del member.songs[song.number]
            self._lose_song(song, member.node)
            return
        else:
            discard(song.task.output)
            event = news
        del member.songs[song.number]
        self._events.append((song.task, event))

    def _may_be_the_machines(self, error: Exception, song: _OpenTask, member: _Member) -> bool:
        """Whether a song that failed is to be tried on another machine: a full disk, a bad GPU."""
        if isinstance(error, (MidiError, OptionError)) or song.nodes:
            return False
        ready = [other for other in self._members if other.ready]
        return any(other.node != member.node for other in [*ready, *self._coming])


def _check_address(address: str | None) -> None:
    """Raise OSError at once where nothing answers; Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _machines() -> list[dict[str, Any]]:
    """What Ray knows of each machine."""
    import ray

    nodes: Any = ray.nodes
    return list(nodes())


def _elsewhere(members: list[_Member], song: _OpenTask) -> list[_Member]:
    """The workers on machines that a song was not lost on; all, where there are no others."""
    return [member for member in members if member.node not in song.nodes] or members


def _load(member: _Member) -> int:
    return len(member.songs)


def _write(data: memoryview, output: Destination) -> Exception | None:
    """Write the bytes of an output; the error, if there is one."""
    try:
        for start in range(0, len(data), BLOCK):
            output.write(data[start : start + BLOCK])
        output.commit()
    except (OSError, OutputError) as error:
        discard(output)
        return error
    return None


def _absolute(name: str) -> str:
    """The name of a model or vocoder; the path of a file or directory is made absolute."""
    is_path = name not in (*VOCODERS, *available_models()) and os.path.exists(name)
    return os.path.abspath(name) if is_path else name


def _allow_open_files() -> int:
    """Raise the limit on open files as far as the system allows; the new limit."""
    if sys.platform == "win32":
        return 512
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return allowed if allowed != resource.RLIM_INFINITY else 2**20


def _first_line(error: Exception) -> str:
    """The first line of an error of Ray's, which may fill a screen."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = [line.strip() for line in str(error).splitlines()]
    return textwrap.shorten(next(filter(None, lines), type(error).__name__), 120).rstrip(".")
