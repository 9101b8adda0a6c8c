"""Work on several cores: results, errors, and no work for nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from spectro_render.batch.cores import Cancelled, Cores
from tests.support.processes import LIMIT


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_result_comes_once(number: int) -> None:
    cores: Cores[int] = Cores(number)
    started = {cores.start(partial(pow, k, 2)): k for k in range(7)}
    for _ in range(7):
        future = cores.first()
        assert future.result() == started.pop(future) ** 2


def test_who_is_done_comes_first() -> None:
    cores, may_end = Cores[bool](2), threading.Event()
    late = cores.start(partial(may_end.wait, LIMIT))
    early = cores.start(lambda: True)
    assert cores.first() is early
    may_end.set()
    assert cores.first() is late
    assert late.result()


def who(meeting: threading.Barrier) -> tuple[str, int]:
    meeting.wait(LIMIT)  # so that one thread does not do the work of both
    return threading.current_thread().name, torch.get_num_threads()


@pytest.fixture
def torch_with_two_threads() -> Iterator[Callable[[], int]]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield torch.get_num_threads
    torch.set_num_threads(before)


def test_threads_have_one_core_each(torch_with_two_threads: Callable[[], int]) -> None:
    cores: Cores[tuple[str, int]] = Cores(2)
    meeting = threading.Barrier(2)
    for _ in range(2):
        cores.start(partial(who, meeting))
    (one, threads), (other, _) = cores.first().result(), cores.first().result()
    assert one != other
    assert threads == 1
    assert torch_with_two_threads() == 2  # of this thread


def test_the_only_work_has_all_of_them(torch_with_two_threads: Callable[[], int]) -> None:
    future = Cores[tuple[str, int]](2).start(partial(who, threading.Barrier(1)), here=True)
    assert future.done()
    assert future.result() == (threading.current_thread().name, 2)


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_is_the_result_of_its_work_alone(number: int) -> None:
    cores: Cores[float] = Cores(number)
    bad, good = cores.start(lambda: 1 / 0), cores.start(lambda: 1.0)
    assert {cores.first(), cores.first()} == {bad, good}
    assert isinstance(bad.exception(), ZeroDivisionError)
    assert good.result() == 1


def test_an_interrupt_is_nobodys_result() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cores[None](1).start(interrupted)


def test_stop_ends_work_that_is_under_way() -> None:
    cores, has_begun = Cores[None](2), threading.Event()

    def work() -> None:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            cores.check()
            has_begun.set()

    future = cores.start(work)
    assert has_begun.wait(LIMIT)
    cores.stop()
    assert isinstance(future.exception(), Cancelled)
    future = cores.start(lambda: None)  # and it can be used again
    assert cores.first() is future
