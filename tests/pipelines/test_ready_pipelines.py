# SPDX-License-Identifier: Apache-2.0
"""The ready pipelines, each with a toy model of its kind that was saved and loaded."""

import ast
import importlib
import inspect
import shutil
from pathlib import Path

import pytest
import torch

import genaccel.pipelines.accelerate_mixin
from genaccel.pipelines.accelerate_mixin import SensitivityMixin

# The folder that the files are in, wherever the package is installed.
FOLDER = Path(genaccel.pipelines.accelerate_mixin.__file__).parent

# diffusers 0.42's DPMSolverMultistepScheduler, which is PixArt-Sigma's, with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def ready_class(tiny):
    module = importlib.import_module(f"genaccel.pipelines.{tiny.file}_sensitivity")
    return getattr(module, tiny.sensitivity_name)


def load_accelerated(tiny, folder, custom_pipeline):
    return tiny.load(folder, custom_pipeline=str(custom_pipeline), trust_remote_code=True)


@pytest.mark.parametrize("guidance", [True, False], ids=["guided", "unguided"])
def test_loaded_by_path_it_is_plain_or_faster_as_asked(tiny, guidance, pixels, tmp_path):
    tiny.build().save_pretrained(tmp_path / "model")
    pipe = load_accelerated(tiny, tmp_path / "model", FOLDER / f"{tiny.file}_sensitivity.py")
    assert type(pipe).__name__ == tiny.sensitivity_name
    # Of the same tensors: a copy elsewhere in memory may be summed in another order.
    stock = tiny.stock_class(**pipe.components)
    stock.set_progress_bar_config(disable=True)
    plain = pixels(stock(**tiny.call(guidance=guidance)))
    assert torch.isfinite(plain).all()

    def run(**others):
        return pixels(pipe(**tiny.call(guidance=guidance, **others)))

    assert torch.equal(run(), plain)
    assert pipe.acceleration is None
    assert torch.equal(run(accelerate="soda"), plain)
    faster = run(accelerate="soda")
    report = pipe.acceleration.report()["transformer"]
    assert report.calls == report.num_steps * (tiny.guided_calls if guidance else 1)
    # Of 8 steps, 4 of which leave slightly more than half, 3 are computed.
    assert 1.96 <= report.flop_ratio < 2.7
    assert not torch.equal(faster, plain)
    assert (faster - plain).abs().max() < 0.01
    assert torch.equal(run(accelerate="soda"), faster)
    assert torch.equal(run(accelerate=None), plain)


def test_loaded_from_a_folder_and_saved_again(tiny, pixels, tmp_path):
    tiny.build().save_pretrained(tmp_path / "model")
    (tmp_path / "code").mkdir()
    shutil.copy(FOLDER / f"{tiny.file}_sensitivity.py", tmp_path / "code" / "pipeline.py")
    pipe = load_accelerated(tiny, tmp_path / "model", tmp_path / "code")
    assert type(pipe).__name__ == tiny.sensitivity_name
    pipe.save_pretrained(tmp_path / "again")
    stock = tiny.load(tmp_path / "again")
    assert type(stock) is tiny.stock_class
    assert torch.equal(pixels(stock(**tiny.call())), pixels(pipe(**tiny.call())))


def test_imported_and_made_from_a_stock_pipeline(tiny, pixels):
    stock = tiny.build()
    plain = pixels(stock(**tiny.call()))
    pipe = ready_class(tiny).from_pipe(stock)
    pipe.set_progress_bar_config(disable=True)
    pipe(**tiny.call(accelerate="soda"))
    assert not torch.equal(pixels(pipe(**tiny.call(accelerate="soda"))), plain)
    pipe.disable_acceleration()
    assert torch.equal(pixels(stock(**tiny.call())), plain)


def test_callbacks_pass_through(tiny):
    parameters = inspect.signature(tiny.stock_class.__call__).parameters
    steps = []
    if "callback_on_step_end" in parameters:

        def seen(pipe, step, timestep, values):
            steps.append(step)
            return values

        callback = {"callback_on_step_end": seen}
    elif "callback" in parameters:
        callback = {"callback": lambda step, timestep, latents: steps.append(step)}
    else:
        pytest.skip(f"{tiny.stock} takes none")
    pipe = tiny.build(ready_class(tiny))
    for _ in range(2):
        pipe(**tiny.call(accelerate="soda", **callback))
    assert steps == [*range(8), *range(8)]


def test_two_transformers_that_share_the_steps(tiny_wan_of_two, pixels):
    pipe = tiny_wan_of_two.build(ready_class(tiny_wan_of_two))

    def run(**others):
        return pixels(pipe(**tiny_wan_of_two.call(num_inference_steps=12, **others)))

    plain = run()
    assert torch.equal(run(accelerate="soda"), plain)
    run(accelerate="soda")
    reports = pipe.acceleration.report()
    assert set(reports) == {"transformer", "transformer_2"}
    assert all(report.flop_ratio > 1.5 for report in reports.values())
    assert torch.equal(run(), plain)


def test_file_is_a_stock_pipeline_and_the_mixin(tiny):
    pipeline_class = ready_class(tiny)
    assert pipeline_class.__bases__ == (SensitivityMixin, tiny.stock_class)
    assert "accelerate" in inspect.signature(pipeline_class.__call__).parameters
    code = "".join(
        line.strip()[4:] + "\n"
        for line in pipeline_class.__doc__.splitlines()
        if line.strip().startswith((">>> ", "... "))
    )
    arguments = {
        keyword.arg
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict"
        for keyword in node.keywords
    }
    assert arguments
    assert arguments <= set(inspect.signature(pipeline_class.__call__).parameters)


def test_every_ready_pipeline_is_tested(all_tiny):
    files = {path.stem for path in FOLDER.glob("*_sensitivity.py")}
    assert files == {f"{tiny.file}_sensitivity" for tiny in all_tiny}
