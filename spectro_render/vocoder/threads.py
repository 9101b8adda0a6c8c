"""Does independent work on several cores at once, with a thread for each piece of it."""

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

import torch

Result = TypeVar("Result")


def side_by_side(works: Sequence[Callable[[], Result]]) -> list[Result]:
    """Do independent work at once, each piece with its share of torch's threads.

    Operations on small tensors are shared badly by cores, which wait for one another after each.
    The first piece is done in this thread. Returns the results in order, when all work is over; an
    error of one of them is raised then, too.
    """
    if len(works) == 1:
        return [works[0]()]
    threads, is_inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    share = max(1, threads // len(works))
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    # A queue that is written in C: an interrupt leaves Python's own locks in disorder.
    over: SimpleQueue[int] = SimpleQueue()

    def work(number: int) -> None:
        torch.set_num_threads(share)
        try:
            with torch.inference_mode(is_inference):
                results[number] = works[number]()
        except BaseException as error:
            errors.append(error)
        finally:
            over.put(number)

    others = range(1, len(works))
    for number in others:
        Thread(target=work, args=(number,), daemon=True).start()
    torch.set_num_threads(share)
    try:
        results[0] = works[0]()
    finally:
        for _ in others:
            over.get()
        torch.set_num_threads(threads)
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(works))]
