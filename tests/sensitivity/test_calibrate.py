# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.planning.planner import make_plan
from genaccel.sensitivity.study.calibrate import calibrate


@pytest.fixture
def four(calls):
    """Four generations."""
    return [{**calls[0], "seed": seed} for seed in range(4)]


def assert_equal(a, b):
    for name, tensor in a.moments.state_dict().items():
        assert torch.equal(tensor, b.moments.state_dict()[name]), name
    assert a.segment_flops == b.segment_flops
    assert a.fingerprint == b.fingerprint
    np.testing.assert_array_equal(a.gains, b.gains)


@pytest.fixture
def interrupted(monkeypatch):
    """Makes a pipeline fail in its third call."""

    def interrupt(pipeline):
        plain, count = type(pipeline).__call__, []

        def call(self, **arguments):
            count.append(1)
            if len(count) == 3:
                raise KeyboardInterrupt
            return plain(self, **arguments)

        monkeypatch.setattr(type(pipeline), "__call__", call)
        return lambda: monkeypatch.setattr(type(pipeline), "__call__", plain)

    return interrupt


def test_an_interrupted_measurement_goes_on_to_equal_sums(
    pipeline, build_pipeline, four, interrupted, tmp_path
):
    whole = calibrate(pipeline, four)["transformer"]
    checkpoint = tmp_path / "folder" / "calibration.safetensors"
    other = build_pipeline()
    mend = interrupted(other)
    with pytest.raises(KeyboardInterrupt):
        calibrate(other, four, checkpoint=checkpoint)
    mend()
    assert not hasattr(other.transformer, "_diffusers_hook")
    runs = []
    other.vae.register_forward_pre_hook(lambda *_: runs.append(1))
    done = calibrate(other, four, checkpoint=checkpoint)["transformer"]
    assert_equal(whole, done)
    again = calibrate(other, four, checkpoint=checkpoint)["transformer"]
    assert_equal(whole, again)


def test_one_plan_for_any_speedup_from_one_measurement(pipeline, calls, sample):
    plain = sample(pipeline)
    measured = calibrate(pipeline, calls)["transformer"]
    assert torch.equal(sample(pipeline), plain)
    config = SensitivityConfig(speedup=2.0)
    errors = [make_plan(measured, config, speedup=s).expected_error for s in (1.5, 2.0, 3.0)]
    assert errors == sorted(errors)
    assert measured.fingerprint.num_inference_steps == 8
    assert measured.gains.shape == (8,)


def test_a_checkpoint_of_something_else_is_refused(pipeline, calls, tmp_path):
    checkpoint = tmp_path / "c.safetensors"
    calibrate(pipeline, calls[:1], checkpoint=checkpoint)
    with pytest.raises(ValueError, match="was measured with other calls or settings; remove it"):
        calibrate(pipeline, calls, checkpoint=checkpoint)
    config = SensitivityConfig(speedup=2.0, max_interval=3)
    with pytest.raises(ValueError, match="other calls or settings"):
        calibrate(pipeline, calls[:1], config, checkpoint=checkpoint)
    checkpoint.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"is damaged \(.*\); remove it to begin anew"):
        calibrate(pipeline, calls, checkpoint=checkpoint)


def test_a_checkpoint_of_another_version_is_refused(pipeline, calls, tmp_path):
    checkpoint = tmp_path / "c.safetensors"
    calibrate(pipeline, calls[:1], checkpoint=checkpoint)
    with safe_open(checkpoint, "pt") as stored:
        metadata = stored.metadata()
    tensors = load_file(checkpoint)
    for version in ("1", None):
        changed = {**metadata, "version": version} if version else dict(metadata)
        if version is None:
            del changed["version"]  # as before there were versions
        save_file(tensors, checkpoint, metadata=changed)
        with pytest.raises(ValueError, match=r"c.safetensors is no measurement of this version"):
            calibrate(pipeline, calls[:1], checkpoint=checkpoint)


def test_the_target_does_not_belong_to_the_measurement(pipeline, calls, tmp_path):
    checkpoint = tmp_path / "c.safetensors"
    first = calibrate(pipeline, calls, checkpoint=checkpoint)["transformer"]
    config = SensitivityConfig(speedup=3.0)
    assert_equal(first, calibrate(pipeline, calls, config, checkpoint=checkpoint)["transformer"])


def test_generations_must_be_alike(pipeline, calls):
    with pytest.raises(ValueError, match="at least one generation"):
        calibrate(pipeline, [])
    longer = {**calls[1], "num_inference_steps": 9}
    with pytest.raises(ValueError, match="the same number of steps, got 8 and 9"):
        calibrate(pipeline, [calls[0], longer])
    calibrate(pipeline, calls[:1])  # the hooks of the failed one are gone


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"a": torch.zeros(1)}, {}),
        ({"a.b.c.d": torch.zeros(1)}, {}),
        ({}, {"done": "many"}),
        ({}, {"done": "-1"}),
        ({}, {"done": "99"}),
        ({}, {"done": None}),
        ({"transformer.moments.count": torch.zeros(5)}, {"done": "1"}),
    ],
)
def test_a_checkpoint_with_other_contents_is_damaged(pipeline, calls, tmp_path, tensors, metadata):
    path = tmp_path / "checkpoint.safetensors"
    calibrate(pipeline, calls[:2], SensitivityConfig(speedup=2.0), checkpoint=path)
    with safe_open(path, "pt") as stored:
        known = stored.metadata()
    kept = {k: v for k, v in {**known, **metadata}.items() if v is not None}
    save_file(tensors, path, metadata=kept)
    with pytest.raises(ValueError, match=r"is damaged; remove it to begin anew|state must hold"):
        calibrate(pipeline, calls[:2], SensitivityConfig(speedup=2.0), checkpoint=path)
