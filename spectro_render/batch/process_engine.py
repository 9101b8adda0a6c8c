"""Renders tasks in several processes of this machine.

Each worker renders one song at a time on its share of the cores. It writes to the open files of
this process, which gives them their names. Workers do not share Python's lock, and one that is
killed loses nothing: its songs are rendered by another one.

On Linux the workers are copies of one process that has imported PyTorch, so that this is done once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import connection, forkserver, reduction, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from spectro_render.batch.cores import let_idle_threads_sleep
from spectro_render.batch.engine import LocalEngine, make_engine
from spectro_render.batch.jobs import Job
from spectro_render.batch.tasks import Event, Finished, Settings, Task, discard
from spectro_render.batch.worker import MakeEngine, Report, Worker, sendable
from spectro_render.batch.worker_engine import (
    FIRST_DEADLINE,
    Member,
    OpenTask,
    WorkerEngine,
    WorkerLost,
    first_line,
)
from spectro_render.errors import EngineError, OptionError, OutputError
from spectro_render.report import Reporter

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from spectro_render.checkpoints.manifest import ModelFiles

# From numbers of songs: the cores to use, and the songs' files and whether these can seek.
Lend: TypeAlias = Callable[[Sequence[int]], tuple[int, list[tuple[int, bool]]]]

LEAST_SONGS = 2  # a single one is rendered in this process
REPORT_SECONDS = 0.5  # time between two reports of a worker


def usable_cores() -> int:
    """The number of cores that PyTorch would use, without importing it."""
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


class _Remote:
    """A process that renders, and this end of the pipe to it."""

    def __init__(self, process: BaseProcess, pipe: Connection, lend: Lend) -> None:
        self._process, self.pipe, self._lend = process, pipe, lend

    def render(self, songs: Sequence[tuple[int, Job, bytes]], seconds: float) -> None:
        """Call `ProcessWorker.render`. Raises WorkerLost."""
        cores, files = self._lend([number for number, _, _ in songs])
        try:
            self.pipe.send((songs, [can_seek for _, can_seek in files], cores, seconds))
            for file, _ in files:
                reduction.send_handle(self.pipe, file, self._process.pid)
        except OSError as error:
            raise self._lost() from error

    def result(self) -> int | Report[Finished]:
        """The result of the call. Raises WorkerLost, or the error that the worker raised."""
        try:
            result: int | Report[Finished] | Exception = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if isinstance(result, Exception):
            raise result
        return result

    def stop(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def _lost(self) -> WorkerLost:
        self._process.join(1.0)
        code = self._process.exitcode
        if code is not None and code < 0:
            return WorkerLost(f"it was ended by {signal.Signals(-code).name}")
        return WorkerLost("it ended" if code is None else f"it ended with exit code {code}")


class ProcessEngine(WorkerEngine[int, Finished]):
    """An Engine that renders in several processes, or in this one if there is a single task."""

    most_losses = 2
    lost_hint = "free some memory, or use fewer --workers"
    start_hint = "free some memory, or use --workers 1"
    start_deadline = FIRST_DEADLINE

    def __init__(
        self,
        settings: Settings,
        reporter: Reporter,
        workers: int,
        songs: int,
        find_model: Callable[[], ModelFiles],
        make_engine: MakeEngine = make_engine,
    ) -> None:
        """`workers` is the number of processes, `songs` the largest number of tasks.

        Raises OptionError on Windows, where files cannot be lent to other processes in this way.
        """
        if sys.platform == "win32":
            raise OptionError("--workers is not for Windows", "leave it out")
        super().__init__(settings, reporter)
        self._number, self._songs, self._find_model = workers, songs, find_model
        self._make_engine = make_engine
        self._here: LocalEngine | None = None  # renders in this process
        self._context: ForkServerContext | SpawnContext | None = None  # None: nothing is started

    @property
    def has_room(self) -> bool:
        """Whether one more task may begin; one for each worker waits until there is room."""
        if self._here is not None:
            return self._here.has_room
        if self._context is None:
            return self.unfinished < LEAST_SONGS
        size = self.settings.batch_size or 1
        return self.unfinished < self._number * (size + 1)

    def begin(self, task: Task) -> None:
        """Begin a task; workers start with the second one.

        Raises WeightsError if there is no model, EngineError if no worker can be started.
        """
        if self._here is not None:
            self._here.begin(task)
            return
        self.enqueue(task)
        if self._context is None and self.unfinished == LEAST_SONGS:
            try:
                self.start_workers()
            except BaseException:
                self.withdraw(task)
                raise

    def advance(self) -> list[tuple[Task, Event]]:
        """Render, or wait for workers that do. Raises EngineError."""
        if self._here is None and self._context is None:
            here = self._render_here()
            for task in self.take_back():
                try:
                    here.begin(task)
                except Exception as error:
                    discard(task.output)
                    self._events.append((task, error))
        if self._here is not None:
            events, self._events = self._events, []
            return events or self._here.advance()
        events = super().advance()
        return [(task, _committed(task, event)) for task, event in events]

    def stop(self) -> None:
        """Give up all tasks that are not over, and end the workers."""
        super().stop()
        if self._here is not None:
            self._here.stop()

    def _render_here(self) -> LocalEngine:
        self._here = LocalEngine(self.settings, self._songs, self._find_model)
        self._here.on_progress = lambda task, progress: self.on_progress(task, progress)
        return self._here

    # --- workers ------------------------------------------------------------------------------

    def start_workers(self) -> None:
        """Start workers, so that there are as many as have work. Raises EngineError."""
        if self._context is None:
            self._find_model()  # so that a model of the Hub is fetched once, with messages
            self._context = _start_context()
        there = replace(self.settings, batch_size=self.settings.batch_size or 1)
        while len(self.members) < min(self._number, self.unfinished):
            if self.members and self.failed_starts >= self.most_losses:
                return  # there is no memory for more of them
            ours, theirs = self._context.Pipe(duplex=True)
            arguments = (theirs, there, self._make_engine)
            process = self._context.Process(target=_serve, args=arguments, daemon=True)
            try:
                with _without_main():
                    process.start()
            except (OSError, EOFError) as error:
                ours.close()
                message = f"a worker cannot be started: {first_line(error)}"
                raise EngineError(message, self.start_hint) from error
            finally:
                theirs.close()
            self.members.append(Member(_Remote(process, ours, self._lend), time.monotonic()))

    def first_done(self, timeout: float) -> list[Member[int, Finished]]:
        """Wait until some calls are done, or a worker has ended."""
        called = {
            member.remote.pipe: member
            for member in self.members
            if member.is_called and isinstance(member.remote, _Remote)
        }
        done = connection.wait(list(called), timeout)
        return [member for pipe, member in called.items() if pipe in done]

    def admit(self, member: Member[int, Finished], ready: int) -> None:
        """Set the number of songs that a worker renders at once."""
        member.size = ready

    def complete(self, song: OpenTask, made: Finished) -> Event:
        """Complete a song, whose file gets its name when the worker has its next song."""
        beside = sum(len(member.songs) for member in self.members) - 1
        return replace(made, beside=beside)

    def prepare_again(self, song: OpenTask) -> bool:
        """Empty the file of a song whose worker was lost; False if that cannot be done."""
        return song.task.output.empty()

    def report_seconds(self) -> float:
        """The time between two reports of a worker."""
        return REPORT_SECONDS

    def _lend(self, numbers: Sequence[int]) -> tuple[int, list[tuple[int, bool]]]:
        """The number of cores for the next call of a worker, and the files of its new songs."""
        busy = [member for member in self.members if member.songs]
        songs = {number: song for member in busy for number, song in member.songs.items()}
        files = [songs[number].task.output.lend() for number in numbers]
        return max(1, usable_cores() // len(busy)), files


def _committed(task: Task, event: Event) -> Event:
    """Give a complete output its name; returns the event, or the error if that fails."""
    if isinstance(event, Finished):
        try:
            task.output.commit()
        except (OSError, OutputError) as error:
            discard(task.output)
            return error
    return event


def _start_context() -> ForkServerContext | SpawnContext:
    """Choose how processes are started, and start the server that starts them on Linux.

    Signals of the terminal are blocked in the server and in all workers, which end with this
    process. They arrive here when all is started.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    let_idle_threads_sleep()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spectro_render.batch.preload"])
    resource_tracker.ensure_running()  # which unblocks signals when it has started
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module, which a new process would otherwise import or run again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# --- in the worker ----------------------------------------------------------------------------


class ProcessWorker(Worker[Finished]):
    """A worker that writes to files which another process has opened."""

    def __init__(self, settings: Settings, make_engine: MakeEngine, pipe: Connection) -> None:
        super().__init__(settings, 1, make_engine)
        self._pipe = pipe
        self._opened: dict[int, tuple[BinaryIO, bool]] = {}  # by numbers of songs

    def run(self) -> None:
        """Load the model, and answer calls until the other process closes the pipe."""
        self._pipe.send(self.load())
        while True:
            songs, can_seek, cores, seconds = self._pipe.recv()
            for (number, _, _), can in zip(songs, can_seek, strict=True):
                file = os.fdopen(reduction.recv_handle(self._pipe), "wb")
                self._opened[number] = file, can
            if self._engine.size == 1:  # else the songs of a batch share one core
                import torch

                torch.set_num_threads(cores)
            self._pipe.send(self.render(songs, seconds))

    def open_file(self, number: int) -> tuple[BinaryIO, bool]:
        """The file that was sent with a song."""
        return self._opened.pop(number)

    def deliver(self, file: BinaryIO, finished: Finished) -> Finished:
        """Say that a song is complete, as its bytes are where they belong."""
        return finished


def _serve(pipe: Connection, settings: Settings, make_engine: MakeEngine) -> None:
    """Run a worker until the process ends that started it."""
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    try:
        ProcessWorker(settings, make_engine, pipe).run()
    except (EOFError, OSError):  # the other process has ended, or does not want more
        pass
    except Exception as error:
        with suppress(OSError):
            pipe.send(sendable(error))


def _end_with_parent() -> None:
    """End this process when the one has ended that started it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
