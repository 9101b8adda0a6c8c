"""Work shared by threads: order, errors, and no work for nothing."""

import threading
import time
from collections.abc import Sequence

import pytest
import torch

from spectro_render.cores import Cores


def squares(share: Sequence[int]) -> list[int]:
    return [number**2 for number in share]


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("items", [1, 2, 3, 7])
def test_results_are_in_order(cores: int, items: int) -> None:
    assert Cores(cores).share(squares, list(range(items))) == [n**2 for n in range(items)]


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("items", [1, 2, 7])
def test_results_of_each_are_in_order(cores: int, items: int) -> None:
    def late(number: int) -> int:
        time.sleep(0.01 * (items - number))
        return number**2

    assert Cores(cores).each(late, list(range(items))) == [n**2 for n in range(items)]


def test_who_is_done_takes_the_next() -> None:
    """One item waits for all the others: were they shared out, for ever."""
    others = threading.Semaphore(0)

    def work(number: int) -> bool:
        if number:
            others.release()
            return True
        return all(others.acquire(timeout=5) for _ in range(3))

    assert all(Cores(2).each(work, [0, 1, 2, 3]))


def test_threads_have_one_core_each() -> None:
    def who(share: Sequence[int]) -> list[tuple[str, int]]:
        time.sleep(0.05)  # so that one thread does not do the work of both
        return [(threading.current_thread().name, torch.get_num_threads()) for _ in share]

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (one, threads), (other, _), *_ = Cores(2).share(who, [1, 2, 3])
        assert one != other
        assert threads == 1
        assert torch.get_num_threads() == 2  # of this thread
    finally:
        torch.set_num_threads(before)


def test_a_single_item_stays_in_its_thread() -> None:
    names = Cores(4).share(lambda share: [threading.current_thread().name], [1])
    assert names == [threading.current_thread().name]


def test_an_error_ends_the_others_work() -> None:
    cores, done = Cores(2), []

    def work(share: Sequence[int]) -> list[int]:
        if 0 in share:
            raise ZeroDivisionError
        for step in range(400):  # 4 s
            cores.check()
            time.sleep(0.01)
            done.append(step)
        return list(share)

    with pytest.raises(ZeroDivisionError):
        cores.share(work, [0, 1])
    assert len(done) < 200
    assert cores.share(squares, [1, 2]) == [1, 4]  # and it can be used again
