"""Work side by side on the cores of a CPU: threads that compute with one core each.

The products of a small network are too short to be shared by cores: they wait for one another
longer than they compute. Whole songs need not wait.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class Cancelled(Exception):
    """What another thread met, or the user, has made this work useless."""


class Cores(Generic[Result]):
    """So many threads, which are made when they are needed; with one core, none."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._threads: ThreadPoolExecutor | None = None
        self._running: list[Future[Result]] = []
        self._is_cancelled = False

    def start(self, work: Callable[[], Result], *, here: bool = False) -> Future[Result]:
        """Begin some work; it goes on while the caller does something else.

        What runs `here` is done on return: all of torch's threads share it, as the only work there
        is. An error is the future's.
        """
        if here or self.number == 1:
            future: Future[Result] = Future()
            _finish(future, work)
        else:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.number, "core", torch.set_num_threads, (1,))
            future = self._threads.submit(work)
        self._running.append(future)
        return future

    def first(self) -> Future[Result]:
        """Wait until some of the work is done; the one begun first of that."""
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        future = next(future for future in self._running if future in done)
        self._running.remove(future)
        return future

    def stop(self) -> None:
        """Let all work end at its next `check`, and wait for that; its results are lost."""
        self._is_cancelled = True
        wait(self._running)
        self._running.clear()
        self._is_cancelled = False

    def check(self) -> None:
        """Raise Cancelled where going on is useless."""
        if self._is_cancelled:
            raise Cancelled


def _finish(future: Future[Result], work: Callable[[], Result]) -> None:
    """Do the work of a future; an interrupt is nobody's result."""
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
