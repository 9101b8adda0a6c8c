"""Threads that compute with one CPU core each, so that songs do not wait for one another.

The products of a small network are too short to be shared by cores: they wait for one another
longer than they compute. Whole songs need not wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Result = TypeVar("Result")


def let_idle_threads_sleep() -> None:
    """Have a thread that waits for the others spin briefly, then give its core away.

    Spinning for long, libgomp's habit, gains some where all cores are free (mels of our model on
    two: 0.54 s, not 0.62 s), but where they are not it takes them from the very threads that are
    waited for (beside one busy process: 2.6 s, not 1.1 s). To be called before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class Cancelled(Exception):
    """Raised in a thread to end work whose result is no longer needed."""


class Cores(Generic[Result]):
    """A fixed number of threads, made when they are needed; with one core, none."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._threads: ThreadPoolExecutor | None = None
        self._running: list[Future[Result]] = []
        self._is_cancelled = False

    def start(self, work: Callable[[], Result], *, here: bool = False) -> Future[Result]:
        """Begin some work; it goes on while the caller does something else.

        What runs `here` is done on return: all of torch's threads share it, as the only work there
        is. An error is the future's, an interrupt the caller's.
        """
        from concurrent.futures import Future, ThreadPoolExecutor

        if here or self.number == 1:
            future: Future[Result] = Future()
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)
        else:
            if self._threads is None:
                import torch

                self._threads = ThreadPoolExecutor(self.number, "core", torch.set_num_threads, (1,))
            future = self._threads.submit(work)
        self._running.append(future)
        return future

    def first(self) -> Future[Result]:
        """Wait until some of the work is done; the one begun first of that."""
        from concurrent.futures import FIRST_COMPLETED, wait

        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        future = next(future for future in self._running if future in done)
        self._running.remove(future)
        return future

    def stop(self) -> None:
        """Let all work end at its next `check`, and wait for that; its results are lost."""
        from concurrent.futures import wait

        self._is_cancelled = True
        wait(self._running)
        self._running.clear()
        self._is_cancelled = False

    def check(self) -> None:
        """Raise Cancelled where going on is useless."""
        if self._is_cancelled:
            raise Cancelled
