# SPDX-License-Identifier: Apache-2.0
"""Fixtures and switches for all tests."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

# What several folders of tests share stands beside this file: op_cases, same_state, tiny_codec.
sys.path.insert(0, str(Path(__file__).parent))

# Error messages come in frames: in narrow ones a long path of a temporary folder breaks in the middle of a word.
os.environ["COLUMNS"] = "200"


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="rewrite our own golden files")


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        if os.environ.get("GENACCEL_REQUIRE_CUDA") == "1":
            pytest.fail("GENACCEL_REQUIRE_CUDA=1, but torch finds no CUDA device")
        pytest.skip("no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Each device in turn."""
    return torch.device(request.param)


@pytest.fixture
def update_golden(request):
    """Whether our own golden files are to be rewritten."""
    return request.config.getoption("--update-golden")


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    """Seed all generators, one thread, and put the random state back."""
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.random.set_rng_state(state)


@pytest.fixture
def fresh_compiler():
    """torch.compile without what other tests compiled."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def picture():
    """Makes a smooth image with some noise, ``[height, width, 3]``."""

    def make(height, width, seed=0):
        generator = np.random.default_rng(seed)
        y, x = np.mgrid[0:height, 0:width]
        phases = generator.uniform(0, 6, (3, 1, 1))
        waves = 120 + 90 * np.sin(x / 17 + y / 29 + phases)
        noisy = waves.transpose(1, 2, 0) + generator.normal(0, 8, (height, width, 3))
        return noisy.clip(0, 255).astype(np.uint8)

    return make


@pytest.fixture
def fresh_accelerator():
    """Accelerate keeps one precision for a whole process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
