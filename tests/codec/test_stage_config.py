# SPDX-License-Identifier: Apache-2.0
import pytest

from genaccel.codec.training.stage_config import (
    AutoencoderTrainingConfig,
    EntropyTrainingConfig,
    JointTrainingConfig,
    default_temperature,
)
from genaccel.training.crops import CropConfig
from genaccel.training.distortion import DistortionWeights

PAPER_STRIDES = (64, 32, 16)


@pytest.mark.parametrize(
    ("rate_weight", "temperature"), [(12, 0.1), (7.2, 0.1), (4.8, 0.1), (1.2, 0.01), (0.8, 0.01)]
)
def test_default_temperature_is_that_of_the_published_models(rate_weight, temperature):
    assert default_temperature(rate_weight, PAPER_STRIDES) == temperature
    # With half the strides, a bit per pixel weighs four times as much to each token.
    assert default_temperature(rate_weight / 4, (32, 16, 8)) == temperature


def test_temperature_may_be_given_or_left_out():
    assert JointTrainingConfig(rate_weight=12).temperature_for(PAPER_STRIDES) == 0.1
    assert JointTrainingConfig(temperature=0.3).temperature_for(PAPER_STRIDES) == 0.3
    assert JointTrainingConfig(relaxed=False).temperature_for(PAPER_STRIDES) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CropConfig(crop_size=0), "crop_size must be at least 1"),
        (lambda: CropConfig(min_scale=0), r"min_scale must be in \(0, 1\]"),
        (lambda: CropConfig(color_permutation=2), r"color_permutation must be in \[0, 1\]"),
        (lambda: EntropyTrainingConfig(temperature=0), "temperature must be above 0"),
        (lambda: JointTrainingConfig(temperature=float("inf")), "temperature must be above 0"),
        (lambda: JointTrainingConfig(rate_weight=-1), "rate_weight must be at least 0"),
        (
            lambda: JointTrainingConfig(adversarial_weight=-1),
            "adversarial_weight must be at least 0",
        ),
        (
            lambda: AutoencoderTrainingConfig(perceptual_start_step=-1),
            "perceptual_start_step must be at least 0",
        ),
        (lambda: AutoencoderTrainingConfig(restart_every=0), "restart_every must be at least 1"),
        (
            lambda: AutoencoderTrainingConfig(restart_until=1.0),
            r"restart_until must be in \[0, 1\)",
        ),
        (lambda: DistortionWeights(grid=float("nan")), "grid must be at least 0"),
        (lambda: DistortionWeights(mse=-1), "mse must be at least 0"),
        (lambda: DistortionWeights(perceptual_net="resnet"), "perceptual_net must be"),
        (lambda: DistortionWeights(perceptual_fraction=0), r"perceptual_fraction must be in \(0"),
    ],
)
def test_out_of_range_says_the_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
