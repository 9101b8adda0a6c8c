"""Independent work side by side: its order, its threads and its errors."""

import threading
from functools import partial

import pytest
import torch

from spectro_render.vocoder.threads import side_by_side


def test_results_come_in_order_and_work_runs_at_once() -> None:
    barrier = threading.Barrier(3, timeout=20)

    def work(number: int) -> int:
        barrier.wait()  # ends only if all three are there
        return number

    assert side_by_side([partial(work, number) for number in range(3)]) == [0, 1, 2]


@pytest.mark.parametrize("is_inference", [True, False])
def test_threads_are_shared_and_given_back(is_inference: bool) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with torch.inference_mode(is_inference):
            found = side_by_side(
                [lambda: (torch.get_num_threads(), torch.is_inference_mode_enabled())] * 2
            )
        assert found == [(2, is_inference)] * 2
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_raised_when_all_work_is_over(failing: int) -> None:
    over = []

    def work(number: int) -> None:
        if number == failing:
            raise MemoryError("too little")
        over.append(number)

    with pytest.raises(MemoryError, match="too little"):
        side_by_side([lambda: work(0), lambda: work(1)])
    assert over == [1 - failing]
