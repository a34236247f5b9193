# SPDX-License-Identifier: Apache-2.0
"""A service: pipelines on shared weights in four threads, short runs of all kinds, interrupted at random."""

import gc
import random
import sys
import threading
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import (
    Stopped,
    flux,
    flux_inputs,
    flux_transformer,
    interrupt_at,
    run_flux,
    stop_at,
    traces,
)

import genaccel
from genaccel import SensitivityConfig

THREADS = 4
# Steps and sizes of runs, and what each thread's pipeline is enabled with.
KINDS = [(6, 8), (8, 8), (6, 12)]
CONFIGS = [
    SensitivityConfig(speedup=2.0, granularity="segment"),
    SensitivityConfig(speedup=1.5, granularity="output"),
]


def build(transformer):
    """The pipelines of the threads: one transformer, each with a scheduler of its own."""
    return [flux(transformer=transformer) for _ in range(THREADS)]


def references(transformer):
    """What a single thread makes of every kind of run, by config and kind; and of a direct call."""
    images = {}
    for c, config in enumerate(CONFIGS):
        pipe = flux(transformer=transformer)
        with genaccel.enable(pipe, config):
            for steps, size in KINDS:
                run_flux(pipe, steps=steps, size=size)  # leaves a plan in the cache
                images[c, steps, size] = run_flux(pipe, steps=steps, size=size)
    with torch.no_grad():
        direct = transformer(**flux_inputs(tokens=16))[0]
    return images, direct


class Worker(threading.Thread):
    """Makes runs on its own pipeline, and direct calls between them.

    Attributes:
        wrong: Results that are not their reference, a sentence each.
        completed: Runs that were not interrupted.
        error: That nobody injected.
    """

    def __init__(self, number, pipe, runs, expected):
        super().__init__()
        self.config = number % len(CONFIGS)
        self.pipe = pipe
        self.runs = runs
        self.images, self.direct = expected
        self.chance = random.Random(number)
        self.wrong = []
        self.completed = 0
        self.error = None

    def run(self):
        try:
            for _ in range(self.runs):
                self.one_run(*self.chance.choice(KINDS))
                if self.chance.random() < 0.3:
                    self.direct_call()
        except BaseException as error:
            self.error = error

    def one_run(self, steps, size):
        how = self.chance.choice(["whole", "whole", "whole", "an exception", "_interrupt", "calls"])
        at = self.chance.randrange(steps - 1)
        arguments = {"steps": steps, "size": size}
        if how == "an exception":
            with pytest.raises(Stopped):
                run_flux(self.pipe, callback_on_step_end=stop_at(at), **arguments)
            return
        if how == "_interrupt":
            run_flux(self.pipe, callback_on_step_end=interrupt_at(at), **arguments)
            return
        if how == "calls":

            def call(pipe, index, timestep, values):
                if index == at:
                    self.direct_call()
                return values

            arguments["callback_on_step_end"] = call
        image = run_flux(self.pipe, **arguments)
        self.completed += 1
        if not torch.equal(image, self.images[self.config, steps, size]):
            self.wrong.append(f"{how}, {steps} steps, size {size}")

    def direct_call(self):
        with torch.no_grad():
            got = self.pipe.transformer(**flux_inputs(tokens=16))[0]
        if not torch.equal(got, self.direct):
            self.wrong.append("a direct call")


def live_bytes():
    gc.collect()
    return sum(
        t.numel() * t.element_size() for t in gc.get_objects() if issubclass(type(t), torch.Tensor)
    )


def work(pipes, runs, expected):
    workers = [Worker(i, pipe, runs, expected) for i, pipe in enumerate(pipes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for worker in workers:
        if worker.error is not None:
            raise worker.error
    return workers


@pytest.mark.parametrize("runs", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_every_image_is_that_of_a_single_thread_and_memory_is_constant(runs):
    transformer = flux_transformer(num_layers=2, num_single_layers=2)
    expected = references(transformer)
    assert traces(transformer) == []
    pipes = build(transformer)
    handles = [genaccel.enable(pipe, CONFIGS[i % len(CONFIGS)]) for i, pipe in enumerate(pipes)]
    work(pipes, 6, expected)
    before = live_bytes()
    workers = work(pipes, runs, expected)
    assert [worker.wrong for worker in workers] == [[]] * THREADS
    assert sum(worker.completed for worker in workers) > runs * THREADS // 2
    del workers
    assert live_bytes() <= before + 4096
    assert all(h.attachments["transformer"].bytes_held == 0 for h in handles)
    for handle in handles:
        handle.disable()
    assert traces(transformer) == []
    with torch.no_grad():
        assert torch.equal(transformer(**flux_inputs(tokens=16))[0], expected[1])


def test_plans_that_are_measured_in_many_threads_at_once():
    """All begin without a plan: whoever measures, every later run of a thread repeats itself."""
    transformer = flux_transformer(num_layers=2, num_single_layers=2)
    plain = run_flux(flux(transformer=transformer), steps=6, size=8)
    pipes = build(transformer)
    for pipe in pipes:
        genaccel.enable(pipe, CONFIGS[0])
    images = [[] for _ in pipes]

    def make(i):
        for _ in range(4):
            images[i].append(run_flux(pipes[i], steps=6, size=8))

    threads = [threading.Thread(target=make, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(made) for made in images] == [4] * THREADS
    replayed = images[0][-1]
    assert not torch.equal(replayed, plain)
    for made in images:
        assert all(torch.equal(image, plain) or torch.equal(image, replayed) for image in made)
        assert torch.equal(made[-1], replayed)
