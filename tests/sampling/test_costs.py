# SPDX-License-Identifier: Apache-2.0
import time

import torch

from genaccel.sampling.costs import Cost, cost_of_call, median_cost

_CPU = torch.device("cpu")


def _work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_cost_is_what_the_processor_worked_and_what_the_clock_showed() -> None:
    slept = cost_of_call(lambda: time.sleep(0.2), _CPU)
    worked = cost_of_call(lambda: _work(0.1), _CPU)

    assert slept.wall >= 0.2
    assert slept.seconds == slept.cpu
    assert slept.cpu is not None
    assert slept.cpu < 0.1
    assert worked.seconds >= 0.1
    assert Cost(wall=1.0, cpu=None).seconds == 1.0


def test_medians_are_of_each_clock() -> None:
    assert median_cost([Cost(3.0, None), Cost(1.0, None), Cost(2.0, None)]) == Cost(2.0, None)
    assert median_cost([Cost(3.0, 1.0), Cost(1.0, 2.0), Cost(2.0, 9.0)]) == Cost(2.0, 2.0)
