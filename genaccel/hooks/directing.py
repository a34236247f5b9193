# SPDX-License-Identifier: Apache-2.0
"""Turns a decision into the frame of a call: makes the forecasts, and tells the hooks what to do."""

from __future__ import annotations

import torch
from torch import Tensor

from genaccel.hooks.blocks import PLAIN, SKIP, STORE
from genaccel.hooks.director import CallDecision
from genaccel.hooks.forecast_batch import ForecastRequest, make_forecasts
from genaccel.hooks.memory import Memory, Stream
from genaccel.hooks.run_state import DecidedCall
from genaccel.hooks.submodule_memory import SubmoduleMemory
from genaccel.hooks.submodules import SubmoduleFrame
from genaccel.hooks.time_window import TimeWindow


def stream_of(call: DecidedCall) -> Stream:
    """The stream of the calls at this place of each step; an empty one after a change of their kind."""
    assert call.layout is not None
    structure = call.layout.structure
    streams, place = call.state.streams, call.tick.call
    stream = streams.get(place)
    if stream is None or stream.kind != call.kind:
        stream = streams[place] = Stream(call.kind, [Memory() for _ in structure.segments])
        if call.state.submodules is not None:
            call.state.submodules[1].forget(place)
    submodules = submodule_memory_of(call)
    for g, memory in enumerate(stream.memories):
        memory.submodule_steps = [] if submodules is None else list(submodules.steps_kept(g, place))
    return stream


def submodule_memory_of(call: DecidedCall) -> SubmoduleMemory | None:
    """The memory of submodules, for calls built like this one; None where no submodules are hooked."""
    assert call.layout is not None
    structure, state = call.layout.structure, call.state
    if not structure.layers:
        return None
    if state.submodules is None or state.submodules[0] is not structure:
        state.submodules = (
            structure,
            SubmoduleMemory(structure.layers, score=state.token_score),
        )
    return state.submodules[1]


def direct(
    call: DecidedCall, stream: Stream, decision: CallDecision, states: Tensor | None
) -> None:
    """Tell the hooks what to do in a call, and make the forecasts for it.

    Args:
        call: The call; its frame is written to.
        stream: The stream of the call, from whose memory the forecasts are made.
        decision: The decision, with one for each segment.
        states: The first tensor that the model takes.
    """
    frame, decisions, director = call.frame, decision.segments, call.state.director
    submodules = submodule_memory_of(call)
    if submodules is not None:
        wanted = {i: d.partial for i, d in enumerate(decisions) if d.partial is not None}
        call.partial = {
            i: step for i, step in wanted.items() if submodules.steps_kept(i, call.tick.call)
        }
        computed = [
            i
            for i, d in enumerate(decisions)
            if d.compute or i in wanted.keys() - call.partial.keys()
        ]
        frame.submodules = SubmoduleFrame(submodules, len(submodules.layers))
        submodules.begin_call(
            frame.submodules,
            call.tick.call,
            call.tick.step,
            states,
            partial=call.partial,
            stores=computed if director.submodule_history > 0 else (),
            measures=director.observes_feed_forwards,
        )
    skipped = []
    for i, wish in enumerate(decisions):
        if wish.compute or wish.partial is not None:
            stores = i not in call.partial and director.history > 0
            frame.actions[i] = STORE if stores else PLAIN
        else:
            frame.actions[i] = SKIP
            skipped.append(i)
    requests = [
        ForecastRequest([added[place] for added in stream.memories[i].added], weights, offset)
        for i in skipped
        for place, (weights, offset) in enumerate(
            zip(decisions[i].weights, decisions[i].offsets, strict=True)
        )
    ]
    # All forecasts of a call, those that are not plain reuse in one launch a kind.
    made = iter(make_forecasts(requests))
    for i in skipped:
        frame.forecasts[i] = tuple(next(made) for _ in decisions[i].weights)


def window_of(call: DecidedCall, decision: CallDecision, device: torch.device) -> TimeWindow | None:
    """The window of times whose embeddings the model is given the mean of; None for its own time.

    Args:
        call: The call.
        decision: The decision, with the steps of the window and their weights.
        device: Device of the model's inputs.
    """
    times = call.run.times()
    if call.layout is None or call.layout.time_scale is None or not times:
        return None
    steps = [step for step, _ in decision.time_weights]
    if not all(0 <= step < len(times) for step in steps):
        return None
    scale = call.layout.time_scale
    shares = torch.tensor([weight for _, weight in decision.time_weights], dtype=torch.float64)
    return TimeWindow(
        torch.tensor([times[s] * scale.factor for s in steps], dtype=torch.float32, device=device),
        (shares / shares.sum()).to(device, torch.float32),
        scale,
    )
