"""Renders tasks in workers, which are other processes on this machine or on other ones.

Each worker loads the model. Only this process touches the user's files: it reads songs, opens their
outputs and hands both to workers. If a worker is lost or hangs, its songs are given to others.
"""

from __future__ import annotations

import itertools
import math
import textwrap
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from spectro_render.batch.jobs import Job
from spectro_render.batch.tasks import Begun, Event, Settings, Task, discard
from spectro_render.batch.worker import Report
from spectro_render.errors import EngineError, MidiError, OptionError, SpectroRenderError
from spectro_render.options import Progress
from spectro_render.report import Reporter, count

STARTING_SECONDS = 60.0  # how long a share of the songs is kept for a worker that is starting
WAIT_SECONDS = 2.0  # the longest wait for reports
# A worker hangs if a call takes longer than SLOWEST times the slowest call so far, in this process'
# time awake. A song may be dense, and other programs may take the cores.
SLOWEST, LEAST_DEADLINE = 30, 300.0
FIRST_DEADLINE = 3600.0  # where no call has returned yet

Ready = TypeVar("Ready")
Made = TypeVar("Made")
Loaded = TypeVar("Loaded", covariant=True)


class WorkerLost(Exception):
    """A worker has ended, or cannot be reached; the message is the reason."""


class Remote(Protocol[Loaded, Made]):
    """A worker as its engine sees it: it works on one call at a time."""

    def render(self, songs: Sequence[tuple[int, Job, bytes]], seconds: float) -> None:
        """Call `Worker.render`. Raises WorkerLost."""

    def result(self) -> Loaded | Report[Made]:
        """The result of a call that is done: of loading the model, or of `render`.

        Raises WorkerLost, SpectroRenderError for a model that cannot be used, and bugs.
        """

    def stop(self) -> None:
        """End the worker at once, whether or not it works."""


@dataclass(eq=False)
class OpenTask:
    """A task that is not over, and where it failed so far."""

    task: Task
    number: int
    losses: int = 0  # number of workers that were lost while they had it
    nodes: set[str] = field(default_factory=set)  # machines on which it was lost or failed
    is_reported: bool = False  # whether its beginning is reported


@dataclass(eq=False)
class Member(Generic[Ready, Made]):
    """The state of a worker, as far as this process knows it."""

    remote: Remote[Ready, Made]
    started: float  # time.monotonic()
    is_called: bool = True  # whether it is working on a call; at first it loads the model
    call_seconds: float = 0.0  # how long it has been working on it
    size: int = 0  # number of songs at once; 0: it is still loading the model
    host: str = ""
    node: str = ""  # name of the machine; only workers of equal machines have equal ones
    songs: dict[int, OpenTask] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """Whether it has loaded the model."""
        return self.size > 0

    @property
    def name(self) -> str:
        return f"a worker on {self.host}" if self.host else "a worker"

    def has_room(self, share: int, most_losses: int) -> bool:
        """Whether it can get one more song now; no worker gets more than `share` songs."""
        if not self.is_ready or self.is_called:
            return False
        is_alone = any(song.losses == most_losses - 1 for song in self.songs.values())
        return not is_alone and len(self.songs) < min(self.size, share)


class WorkerEngine(ABC, Generic[Ready, Made]):
    """An Engine that renders in workers."""

    most_losses: int  # workers that are lost with one song, or in a row while they start
    lost_hint: str  # what to do about a song with which that many were lost
    start_hint: str  # what to do if no worker starts
    start_deadline = math.inf  # seconds after which a worker hangs that is still loading the model

    def __init__(self, settings: Settings, reporter: Reporter) -> None:
        self.settings, self.reporter = settings, reporter
        self.on_progress: Callable[[Task, Progress], None] = lambda task, progress: None
        self.members: list[Member[Ready, Made]] = []
        self.failed_starts = 0  # workers lost in a row before they were ready
        self._numbers = itertools.count()
        self._queue: deque[OpenTask] = deque()
        self._suspects: deque[OpenTask] = deque()  # they may have killed their workers
        self._events: list[tuple[Task, Event]] = []
        self._slowest = 0.0  # seconds of the slowest call so far
        self._fatal: SpectroRenderError | None = None  # raised when all events are returned

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether one more task may begin."""

    @abstractmethod
    def start_workers(self) -> None:
        """Start or stop workers, so that there are as many as fit and have work."""

    @abstractmethod
    def first_done(self, timeout: float) -> list[Member[Ready, Made]]:
        """Wait until some members' calls are done, and return these, or for `timeout` seconds."""

    @abstractmethod
    def admit(self, member: Member[Ready, Made], ready: Ready) -> None:
        """Set a member's size and machine. Raises EngineError for one that cannot be used."""

    @abstractmethod
    def complete(self, song: OpenTask, made: Made) -> Event:
        """Complete the output of a song that was sent. Raises WorkerLost if the sound is lost."""

    @abstractmethod
    def report_seconds(self) -> float:
        """The time between two reports of a worker."""

    def prepare_again(self, song: OpenTask) -> bool:
        """Empty the output of a song whose worker was lost; False if that cannot be done."""
        return True

    @property
    def unfinished(self) -> int:
        """The number of tasks that are not over."""
        held = sum(len(member.songs) for member in self.members)
        return len(self._queue) + len(self._suspects) + held

    def enqueue(self, task: Task) -> None:
        """Add a task, which the next worker with room gets."""
        self._queue.append(OpenTask(task, next(self._numbers)))

    def withdraw(self, task: Task) -> None:
        """Remove a task that was added last."""
        assert self._queue.pop().task is task

    def take_back(self) -> list[Task]:
        """Remove the tasks that no worker has got yet, and return them."""
        tasks = [song.task for song in self._queue]
        self._queue.clear()
        return tasks

    def advance(self) -> list[tuple[Task, Event]]:
        """Send songs to workers, and wait for reports. Raises EngineError."""
        if self._fatal is not None:
            raise self._fatal
        self.start_workers()
        self._hand_out()
        begin = time.monotonic()
        if any(member.is_called for member in self.members):
            for member in self.first_done(0.0 if self._events else WAIT_SECONDS):
                self._receive(member)
        else:
            time.sleep(0.1)  # until the next check for machines
        self._hand_out()  # so that no worker waits while results are written and reported
        # If this process was stopped meanwhile, so were the workers.
        self._end_hanging(min(time.monotonic() - begin, 2 * WAIT_SECONDS))
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Give up all tasks that are not over."""
        held = [song for member in self.members for song in member.songs.values()]
        for member in list(self.members):
            self.stop_worker(member)
        for song in (*self._queue, *self._suspects, *held):
            discard(song.task.output)
        self._queue.clear()
        self._suspects.clear()

    # --- workers ------------------------------------------------------------------------------

    def stop_worker(self, member: Member[Ready, Made]) -> None:
        self.members.remove(member)
        member.remote.stop()

    def _end_hanging(self, seconds: float) -> None:
        """Give up workers whose call takes too long; the last wait took `seconds`."""
        known = max(LEAST_DEADLINE, SLOWEST * self._slowest)
        for member in [member for member in self.members if member.is_called]:
            member.call_seconds += seconds
            deadline = known if self._slowest else FIRST_DEADLINE
            deadline = deadline if member.is_ready else self.start_deadline
            if member.call_seconds > deadline:
                reason = f"it has not answered for {member.call_seconds:.0f} s"
                self._lose_or_end(member, WorkerLost(reason))

    def _lose_or_end(self, member: Member[Ready, Made], error: Exception) -> None:
        try:
            self._lose(member, error)
        except SpectroRenderError as fatal:
            self._fatal = fatal

    def _lose(self, member: Member[Ready, Made], error: Exception) -> None:
        """Give up a worker, and put back its songs. Raises EngineError if no worker starts."""
        self.stop_worker(member)
        songs = list(member.songs.values())
        to_others = f"; {count(len(songs), 'song')} for other workers" if songs else ""
        self.reporter.say(f"{member.name} is lost ({first_line(error)}){to_others}")
        for song in reversed(songs):
            self._lose_song(song, member.node)
        if not member.is_ready:
            self.failed_starts += 1
            if self.failed_starts >= self.most_losses and not self.members:
                message = f"no worker can be started: {first_line(error)}"
                raise EngineError(message, self.start_hint)

    def _lose_song(self, song: OpenTask, node: str) -> None:
        """Put back a song whose worker was lost, or report that it failed."""
        song.losses += 1
        song.nodes.add(node)
        lost: SpectroRenderError | None = None
        if song.losses == self.most_losses:
            message = f"{self.most_losses} workers were lost while rendering it"
            lost = SpectroRenderError(message, self.lost_hint)
        elif not self.prepare_again(song):
            message = "the worker was lost while rendering it, and what it wrote cannot be undone"
            lost = SpectroRenderError(message, "write to a file")
        if lost is not None:
            discard(song.task.output)
            self._events.append((song.task, lost))
        elif song.losses == self.most_losses - 1:
            self._suspects.append(song)
        else:
            self._queue.appendleft(song)

    @property
    def starting(self) -> list[Member[Ready, Made]]:
        """Workers that are expected to be ready soon."""
        if self.failed_starts >= self.most_losses:
            return []
        since = time.monotonic() - STARTING_SECONDS
        return [other for other in self.members if not other.is_ready and other.started > since]

    # --- songs --------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Send songs to idle workers, evenly, and let them render."""
        ready = [member for member in self.members if member.is_ready]
        expected = [*ready, *self.starting]
        share = math.ceil(self.unfinished / max(1, len(expected)))
        free = {member for member in ready if not member.is_called}
        given: dict[Member[Ready, Made], list[OpenTask]] = {member: [] for member in free}

        def give(member: Member[Ready, Made], song: OpenTask) -> None:
            member.songs[song.number] = song
            given[member].append(song)

        # A song that may have killed its workers is tried last, on a worker of its own.
        if self._suspects and ready:
            first = min(_elsewhere(ready, self._suspects[0]), key=_load)
            if first in free and not first.songs:
                give(first, self._suspects.popleft())
            free.discard(first)  # until its other songs are done
        passed_over: list[OpenTask] = []  # songs that wait for another machine
        while self._queue and any(m.has_room(share, self.most_losses) for m in free):
            song = self._queue.popleft()
            able = [
                member
                for member in _elsewhere(expected, song)
                if member in free and member.has_room(share, self.most_losses)
            ]
            if able:
                give(min(able, key=_load), song)
            else:
                passed_over.append(song)
        self._queue.extendleft(reversed(passed_over))
        for member, new in given.items():
            if member.songs:
                songs = [(song.number, song.task.job, song.task.data) for song in new]
                member.is_called, member.call_seconds = True, 0.0
                try:
                    member.remote.render(songs, self.report_seconds())
                except WorkerLost as error:
                    self._lose_or_end(member, error)

    def _receive(self, member: Member[Ready, Made]) -> None:
        """Handle the result of a worker's call."""
        member.is_called = False
        try:
            result = member.remote.result()
            if not isinstance(result, Report):
                self.admit(member, result)
                self.failed_starts = 0
                return
            self._slowest = max(self._slowest, member.call_seconds)
            for number, event in result.events:
                self._handle_event(member, member.songs[number], event)
            for number, progress in result.progress.items():
                if number in member.songs:
                    self.on_progress(member.songs[number].task, progress)
            return
        except Exception as error:  # it is lost, cannot load the model, or has a bug
            failure = error
        others = [other for other in self.members if other is not member and other.is_ready]
        if isinstance(failure, SpectroRenderError) and not others:
            self._fatal = failure
        else:
            self._lose_or_end(member, failure)

    def _handle_event(
        self, member: Member[Ready, Made], song: OpenTask, sent: Begun | Made | Exception
    ) -> None:
        """Handle an event that a worker has sent. Raises WorkerLost if the sound is lost."""
        if isinstance(sent, Begun):
            if not song.is_reported:  # else another worker has begun it before
                self._events.append((song.task, sent))
            song.is_reported = True
            return
        if isinstance(sent, Exception):
            if self._can_retry_elsewhere(sent, song, member):
                del member.songs[song.number]
                self._lose_song(song, member.node)
                return
            discard(song.task.output)
            event: Event = sent
        else:
            event = self.complete(song, sent)
        del member.songs[song.number]
        self._events.append((song.task, event))

    def _can_retry_elsewhere(
        self, error: Exception, song: OpenTask, member: Member[Ready, Made]
    ) -> bool:
        """Whether to try a failed song on another machine, as the first may have a full disk."""
        if isinstance(error, (MidiError, OptionError)) or song.nodes:
            return False
        ready = [other for other in self.members if other.is_ready]
        return any(other.node != member.node for other in [*ready, *self.starting])


def first_line(error: Exception) -> str:
    """The first line of an error, as Ray's errors may be very long."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = [line.strip() for line in str(error).splitlines()]
    return textwrap.shorten(next(filter(None, lines), type(error).__name__), 120).rstrip(".")


def _elsewhere(members: list[Member[Ready, Made]], song: OpenTask) -> list[Member[Ready, Made]]:
    """The workers on machines where a song was not lost yet; if there are none, all workers."""
    return [member for member in members if member.node not in song.nodes] or members


def _load(member: Member[Ready, Made]) -> int:
    return len(member.songs)
