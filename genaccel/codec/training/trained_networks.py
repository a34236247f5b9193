# SPDX-License-Identifier: Apache-2.0
"""The networks of a training run of any stage, of a model folder, or of the zoo.

A run of ``genaccel train codec`` has an autoencoder; runs of the stages ``entropy`` and ``joint`` have an entropy
model too, and so has a model folder with a folder ``entropy`` in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from genaccel import zoo
from genaccel.codec.training.rate_distortion_model import RateDistortionModel
from genaccel.models.autoencoder import PRESETS, Autoencoder, AutoencoderParams
from genaccel.models.masked_entropy_model import MaskedEntropyModel, MaskedEntropyParams
from genaccel.models.quantization_aware import ModelScales
from genaccel.models.registry import network_in
from genaccel.training.loop import averaged_weights
from genaccel.training.run_folder import CONFIG_NAME, RunFolder

# Inside a model folder: the float model, that can be trained further. What codes files is in image_codec's
# INTEGER_ENTROPY_FOLDER.
ENTROPY_FOLDER = "entropy"
# Name of the grids of the entropy model's activations in the checkpoint of a quantisation-aware run.
SCALES_KEY = "activation_scales"

# What the first stage was called before.
_FORMER_STAGE = "tokenizer"


class CodecRun(RunFolder):
    """The run folder of any stage, also one that a former version wrote."""

    def options(self) -> dict[str, Any]:
        """The options, as this version writes them."""
        found = super().options()
        if found.get("stage", _FORMER_STAGE) == _FORMER_STAGE and "preset" in found:
            if str(found["preset"]) not in PRESETS:
                raise ValueError(
                    f"{self.path / CONFIG_NAME} names the preset {found['preset']!r}; there are {', '.join(PRESETS)}"
                )
            found = _renewed(found)
        return found


def _renewed(former: dict[str, Any]) -> dict[str, Any]:
    """The options of a run of the first stage by the names that they have now; those it lacks are left out."""
    rest = {k: v for k, v in former.items() if k != "num_workers"}  # which changes no result

    def take(*names: str, suffix: str = "") -> dict[str, Any]:
        return {name: rest.pop(name + suffix) for name in names if name + suffix in rest}

    distortion = take("mse", "grid", "perceptual", "codebook", "commitment", suffix="_weight")
    return {
        "stage": "autoencoder",
        "autoencoder": PRESETS[rest.pop("preset")].to_dict(),
        "training": {
            "crops": take("crop_size", "min_scale", "color_permutation"),
            "distortion": distortion | take("perceptual_net", "perceptual_fraction"),
            **take("perceptual_start_step", "restart_every", "restart_until", "restart_usage"),
        },
        **{name: value for name, value in rest.items() if name != "stage"},
    }


class TrainedNetworks(NamedTuple):
    """In evaluation mode, on the CPU."""

    autoencoder: Autoencoder
    entropy_model: MaskedEntropyModel | None


def load_networks(source: str | os.PathLike[str]) -> TrainedNetworks:
    """Load what was trained; of a run, the averaged weights of its last checkpoint.

    Args:
        source: Run folder, model folder, or name of a codec in the zoo.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
        UnknownModelError: If there is no such model.
        ValueError: If weights and configuration do not fit each other.
    """
    if (Path(source) / CONFIG_NAME).is_file():
        return load_run(source)
    folder = zoo.resolve(source, "codec").folder
    entropy = network_in(folder, ENTROPY_FOLDER)
    return TrainedNetworks(
        Autoencoder.from_pretrained(folder),
        None if entropy is None else MaskedEntropyModel.from_pretrained(entropy),
    )


def load_run(path: str | os.PathLike[str]) -> TrainedNetworks:
    """The averaged weights of the last checkpoint of a run of any stage.

    Raises:
        FileNotFoundError: If ``path`` holds no checkpoint.
        ValueError: If it holds another kind of run.
    """
    run = CodecRun(path)
    options = run.options()
    if "stage" not in options or not isinstance(options.get("autoencoder"), dict):
        raise ValueError(f"{path} holds no run of the codec's training")
    autoencoder = Autoencoder(AutoencoderParams.from_dict(options["autoencoder"]))
    if "entropy_model" not in options:
        return TrainedNetworks(averaged_weights(run, autoencoder), None)
    if not isinstance(options["entropy_model"], dict):
        raise ValueError(f"{path} holds a run whose entropy model is none")
    entropy_model = MaskedEntropyModel(MaskedEntropyParams.from_dict(options["entropy_model"]))
    averaged = averaged_weights(run, RateDistortionModel(autoencoder, entropy_model))
    return TrainedNetworks(averaged.autoencoder, averaged.entropy_model)


def load_scales(path: str | os.PathLike[str]) -> ModelScales | None:
    """Grids of the entropy model's activations that a quantisation-aware run has chosen; None of any other run.

    Raises:
        FileNotFoundError: If ``path`` holds no checkpoint.
    """
    scales = CodecRun(path).load().get(SCALES_KEY)
    return None if scales is None else ModelScales.from_dict(scales)
