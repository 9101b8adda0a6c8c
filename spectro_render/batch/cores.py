"""Threads that compute on one CPU core each, so that songs are rendered independently.

The matrix products of a small network are too small to be shared by cores, which would wait for one
another longer than they compute. So each core renders songs of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Result = TypeVar("Result")


def let_idle_threads_sleep() -> None:
    """Make threads that wait for others spin only briefly. Call it before torch is imported.

    By default, threads of libgomp spin for long. That is faster if all cores are free (mels of the
    default model on two cores: 0.54 s instead of 0.62 s). But if they are not, the spinning takes
    cores from the threads that compute (beside one busy process: 2.6 s instead of 1.1 s).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class Cancelled(BaseException):
    """Raised in a thread to end work whose result is no longer needed.

    No Exception, as these are errors of one song.
    """


class Cores(Generic[Result]):
    """A fixed number of threads, started when they are needed; for one core there is no thread."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._threads: ThreadPoolExecutor | None = None
        self._running: list[Future[Result]] = []
        # Work that is done. The caller waits for it in this queue, which is written in C: an
        # interrupt leaves Python's own locks, which futures have, in disorder.
        self._done: SimpleQueue[Future[Result]] = SimpleQueue()
        self._is_cancelled = False

    def start(self, work: Callable[[], Result], *, here: bool = False) -> Future[Result]:
        """Start some work in a thread; its result or error is in the future.

        With `here`, for work that is alone, it is done in the caller's thread before this returns,
        with all of torch's threads. An interrupt is raised to the caller.
        """
        from concurrent.futures import Future, ThreadPoolExecutor

        future: Future[Result] = Future()
        if here or self.number == 1:
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)
            self._done.put(future)
        else:
            if self._threads is None:
                import torch

                self._threads = ThreadPoolExecutor(self.number, "core", torch.set_num_threads, (1,))
            self._threads.submit(self._work, work, future)
        self._running.append(future)
        return future

    def first(self) -> Future[Result]:
        """Wait until some of the work is done, and return the future of the work done first."""
        future = self._done.get()
        self._running.remove(future)
        return future

    def stop(self) -> None:
        """Cancel all work at its next `check`, and wait for it to end; its results are lost."""
        self._is_cancelled = True
        # Not by `first`, as an interrupt may have taken a future from the queue and lost it.
        while not all(future.done() for future in self._running):
            with suppress(Empty):
                self._done.get(timeout=0.1)
        self._running.clear()
        self._done = SimpleQueue()
        self._is_cancelled = False

    def cancel(self) -> None:
        """Cancel all work at its next `check`, from any thread; `stop` waits for it."""
        self._is_cancelled = True

    def _work(self, work: Callable[[], Result], future: Future[Result]) -> None:
        """Do some work in a thread."""
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        finally:
            self._done.put(future)

    def check(self) -> None:
        """Raise Cancelled if the work has been cancelled; to be called by the work."""
        if self._is_cancelled:
            raise Cancelled
