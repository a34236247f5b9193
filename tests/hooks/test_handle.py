# SPDX-License-Identifier: Apache-2.0
"""The handle pauses, reports, explains, compiles and undoes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

sys.path.insert(0, str(Path(__file__).parent))
import handmade_models as handmade
from handmade_models import build, run, same
from scripted import attach
from tiny_transformers import TINY_TRANSFORMERS, call

from genaccel.hooks.handle import AccelerationHandle

MASK = [1, 1, 0, 1, 0, 0]
LINEAR = 2 * 4 * handmade.WIDTH**2  # FLOPs of a linear layer; a model has five, its blocks three


def accelerate(model, mask=MASK, **options):
    return AccelerationHandle({"model": attach(model, mask, **options)})


class TestLife:
    def test_disabling_is_for_good_and_may_be_repeated(self):
        model = build()
        plain = run(model, 6)
        handle = accelerate(model)
        assert handle.is_enabled
        run(model, 6)
        handle.disable()
        handle.disable()
        assert not handle.is_enabled
        assert same(run(model, 6), plain)
        again = accelerate(model)
        handle.disable()  # must not touch what is another handle's
        run(model, 6)
        assert again.report()["model"].forecast_segments == 3

    def test_a_with_disables_at_its_end(self):
        model = build()
        with accelerate(model) as handle:
            run(model, 6)
        assert not handle.is_enabled
        assert "forward" not in vars(model)

    def test_paused_covers_all_models(self):
        models = {"first": build(), "second": build(count=2)}
        plain = [run(model, 6) for model in models.values()]
        handle = AccelerationHandle({name: attach(m, MASK) for name, m in models.items()})
        with handle.paused():
            paused = [run(model, 6) for model in models.values()]
        assert all(map(same, paused, plain))
        assert not any(same(run(m, 6), p) for m, p in zip(models.values(), plain, strict=True))

    def test_reset_covers_all_models(self):
        model = build()
        handle = accelerate(model)
        run(model, 2)
        handle.reset()
        assert handle.attachments["model"].bytes_held == 0


class TestReport:
    def test_before_a_run_there_is_nothing_to_report(self):
        report = accelerate(build()).report()
        assert str(report) == "model: Model: no run yet."
        assert report["model"].flop_ratio == 1

    def test_a_run_is_reported_in_flops_and_bytes(self):
        model = build()
        handle = accelerate(model)
        run(model, 6)
        report = handle.report()["model"]
        assert (report.model, report.steps, report.num_steps, report.calls) == ("Model", 6, 6, 6)
        assert report.schedule == "CCfCff"
        assert (report.computed_segments, report.forecast_segments) == (3, 3)
        assert report.plain_flops == 6 * 5 * LINEAR
        assert report.flops == 3 * 5 * LINEAR + 3 * 2 * LINEAR
        assert report.flop_ratio == 30 / 21
        assert report.peak_bytes == 2 * 4 * 4 * handmade.WIDTH
        assert report.computed_ms > 0
        assert report.forecast_ms > 0

    def test_only_the_last_run_is_reported(self):
        model = build()
        handle = accelerate(model)
        run(model, 6)
        run(model, 2)
        assert handle.report()["model"].schedule == "CC"

    def test_a_step_of_some_segments_is_mixed(self):
        model = build()
        handle = accelerate(model, [[1, 1, 1], [1, 0, 1], [0, 0, 0]], max_blocks=1)
        run(model, 3)
        assert handle.report()["model"].schedule == "Cmf"

    def test_a_report_is_json_and_prints_itself(self):
        model = build()
        handle = accelerate(model)
        run(model, 6)
        values = json.loads(json.dumps(handle.report()["model"].to_dict()))
        assert values["flop_ratio"] == pytest.approx(1.43, abs=0.01)
        printed = str(handle.report())
        assert "1.43x fewer" in printed
        assert "CCfCff" in printed


class TestDoctor:
    def test_before_the_first_call_the_lists_are_known(self):
        diagnosis = accelerate(build()).doctor()["model"]
        assert diagnosis.lists == (("blocks", "Block", 3),)
        assert diagnosis.covered is diagnosis.best_flop_ratio is None
        assert diagnosis.notes == ("The segments are learned from the first call.",)

    def test_after_it_what_can_be_saved_is_known(self):
        model = build()
        handle = accelerate(model)
        run(model, 1)
        diagnosis = handle.doctor()["model"]
        assert diagnosis.segments == (("blocks[0:3]", 3 * LINEAR),)
        assert diagnosis.covered == 3 / 5
        assert diagnosis.best_flop_ratio == pytest.approx(5 / 2)
        assert "60.0% of the FLOPs, at most 2.5x fewer" in str(handle.doctor())
        json.dumps(diagnosis.to_dict())

    def test_a_model_that_nothing_is_gained_from_is_told(self):
        model = build(handmade.TwiceModel)
        handle = accelerate(model)
        run(model, 1)
        printed = str(handle.doctor())
        assert "No block can be skipped: acceleration of this model does nothing." in printed
        assert "blocks[0] is called 2 times a step" in printed

    def test_a_model_compiled_by_someone_else_is_told(self):
        model = build()
        model.compile(backend="eager")
        assert "The model was compiled as a whole; which step a call is" in str(
            accelerate(model).doctor()
        )


@pytest.mark.usefixtures("fresh_compiler")
class TestCompile:
    def test_one_graph_is_compiled_for_each_kind_of_step(self):
        model = build()
        handle = accelerate(model)
        expected = run(model, 6)
        handle.compile(fullgraph=True, backend="eager")
        for _ in range(3):
            for ours, theirs in zip(run(model, 6), expected, strict=True):
                torch.testing.assert_close(ours, theirs)
        # All computed, all forecast.
        assert counters["stats"]["unique_graphs"] == 2
        assert not counters["graph_break"]

    def test_a_first_call_that_is_learned_from_compiles_nothing_of_itself(self):
        model = build()
        handle = accelerate(model)
        handle.compile(fullgraph=True, backend="eager")
        run(model, 6)
        run(model, 6)
        assert counters["stats"]["unique_graphs"] == 2

    def test_each_mixture_of_the_plan_is_a_graph(self):
        model = build()
        mask = [[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]]
        handle = accelerate(model, mask, max_blocks=1)
        expected = run(model, 6)
        handle.compile(fullgraph=True, backend="eager")
        for _ in range(2):
            for ours, theirs in zip(run(model, 6), expected, strict=True):
                torch.testing.assert_close(ours, theirs)
        assert counters["stats"]["unique_graphs"] == 4

    def test_a_failed_call_and_a_reset_compile_nothing_anew(self):
        model = build()
        handle = accelerate(model)
        handle.compile(fullgraph=True, backend="eager")
        run(model, 6)
        before = counters["stats"]["unique_graphs"]
        handle.reset()
        with pytest.raises(RuntimeError, match="size of tensor"):
            model(torch.zeros(1, 4, handmade.WIDTH), torch.zeros(1, 3))
        handle.attachments["model"].clock.count = 12
        run(model, 6)
        run(model, 6)
        # The wrong shape is a graph of its own, if it got that far.
        assert counters["stats"]["unique_graphs"] <= before + 1

    def test_paused_and_disabled_models_are_plain(self):
        model = build()
        plain = run(model, 6)
        handle = accelerate(model)
        handle.compile(fullgraph=True, backend="eager")
        run(model, 6)
        with handle.paused():
            assert same(run(model, 6), plain)
        handle.disable()
        assert same(run(model, 6), plain)
        assert "forward" not in vars(model)

    def test_a_transformer_of_diffusers_compiles_whole(self):
        tiny = TINY_TRANSFORMERS["WanTransformer3DModel"]
        model = tiny.build()
        given = [tiny.inputs(step) for step in (0.3, 0.4, 0.5)]
        handle = accelerate(model, [1, 1, 0])
        expected = [call(model, arguments) for arguments in given]
        handle.compile(fullgraph=True, backend="eager")
        for _ in range(2):
            for arguments, parts in zip(given, expected, strict=True):
                for ours, theirs in zip(call(model, arguments), parts, strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert counters["stats"]["unique_graphs"] == 2

    def test_a_backend_that_traces_to_operators_sees_no_more_graphs(self):
        model = build()
        handle = accelerate(model)
        expected = run(model, 6)
        handle.compile(fullgraph=True, backend="aot_eager")
        for ours, theirs in zip(run(model, 6), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
        assert counters["stats"]["unique_graphs"] == 2
