"""Songs side by side on the cores of a CPU: threads that compute with one core each.

The products of a small network are too short to be shared by cores: they wait for one another
longer than they compute. Whole songs need not wait.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Cancelled(Exception):
    """What another thread met, or the user, has made this work useless."""


class Cores:
    """So many threads, which are made when they are needed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._threads: ThreadPoolExecutor | None = None
        self._is_cancelled = False

    def share(self, work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R]:
        """The results of items in order; `work` gets all that one thread has to do."""
        shares = min(self.number, len(items))
        parts = self._run(work, [items[k::shares] for k in range(shares)])
        return [parts[k % shares][k // shares] for k in range(len(items))]

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The results of items in order; a thread that is done takes the next one."""
        return self._run(work, items)

    def _run(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """An error, or an interrupt, lets the other threads end at their next `check`."""
        if self.number == 1 or len(items) == 1:
            return [work(item) for item in items]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.number, "core", torch.set_num_threads, (1,))
        futures = [self._threads.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            self._is_cancelled = True
            wait(futures)
            self._is_cancelled = False
            raise

    def check(self) -> None:
        """Raise Cancelled where going on is useless."""
        if self._is_cancelled:
            raise Cancelled
