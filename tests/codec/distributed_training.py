# SPDX-License-Identifier: Apache-2.0
"""A short training run, for ``torchrun``: DATA RUN. Started by test_distributed_training.py."""

import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_codec import TINY_EFFICIENT as TINY

from genaccel.codec.training.autoencoder import AutoencoderTraining
from genaccel.codec.training.joint import JointTraining
from genaccel.codec.training.rate_distortion_model import entropy_params
from genaccel.codec.training.stage_config import AutoencoderTrainingConfig, JointTrainingConfig
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.masked_entropy_model import MaskedEntropyModel
from genaccel.training.crops import CropConfig
from genaccel.training.distortion import DistortionWeights
from genaccel.training.loop import LoopConfig

torch.set_num_threads(1)
torch.manual_seed(0)
trainer = AutoencoderTraining(
    Autoencoder(TINY),
    AutoencoderTrainingConfig(
        crops=CropConfig(crop_size=32),
        distortion=DistortionWeights(perceptual_net="none"),
        restart_every=2,
    ),
    LoopConfig(steps=6, batch_size=2, warmup_steps=2),
    data=sys.argv[1],
    run=sys.argv[2],
    cpu=True,
)
assert trainer.accelerator.num_processes == 2
trainer.train()
weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
everyone = trainer.accelerator.gather(weights[None])
assert torch.equal(everyone[0], everyone[1]), "ranks ended with different weights"

# The joint stage, with a discriminator beside it.
torch.manual_seed(trainer.accelerator.process_index)
joint = JointTraining(
    Autoencoder(TINY),
    MaskedEntropyModel(
        replace(entropy_params("small", TINY), width=16, layers=1, heads=2, feed_forward_width=16)
    ),
    JointTrainingConfig(
        crops=CropConfig(crop_size=32),
        distortion=DistortionWeights(perceptual_net="none"),
        adversarial_weight=0.1,
        adversarial_start_step=1,
        quantization_aware=True,
    ),
    LoopConfig(steps=4, batch_size=1, warmup_steps=2),
    data=sys.argv[1],
    run=f"{sys.argv[2]}-joint",
    cpu=True,
)
joint.train()
assert joint.adversary is not None
networks = [joint.plain_model().state_dict(), joint.adversary.state_dict()["network"]]
# Batch norms keep statistics of each process's own crops, and nothing reads them.
tensors = [
    t for state in networks for n, t in state.items() if "running" not in n and "num" not in n
]
scales = joint.plain_model().scales  # chosen by crops that only one process has
tensors.append(torch.tensor([scales.output_input, *asdict(scales.blocks[0]).values()]))
weights = torch.cat([t.detach().flatten().float() for t in tensors])
everyone = joint.accelerator.gather(weights[None])
assert torch.equal(everyone[0], everyone[1]), "ranks ended the joint stage with different weights"
