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

    def map(self, work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R]:
        """The results of items in order; `work` gets the share of one thread.

        An error, or an interrupt, lets the other threads end at their next `check`.
        """
        shares = min(self.number, len(items))
        if shares == 1:
            return list(work(items))
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.number, "core", torch.set_num_threads, (1,))
        futures = [self._threads.submit(work, items[k::shares]) for k in range(shares)]
        try:
            parts = [future.result() for future in futures]
        except BaseException:
            self._is_cancelled = True
            wait(futures)
            self._is_cancelled = False
            raise
        return [parts[k % shares][k // shares] for k in range(len(items))]

    def check(self) -> None:
        """Raise Cancelled where going on is useless."""
        if self._is_cancelled:
            raise Cancelled
