# SPDX-License-Identifier: Apache-2.0
"""A short training run, for ``torchrun``: DATA RUN. Started by test_distributed_training.py."""

import sys

import torch
from test_training import TINY

from genaccel.codec import training, training_config
from genaccel.models.autoencoder import PRESETS

presets = {**PRESETS, "tiny": TINY}
training.PRESETS = presets
training_config.PRESETS = presets

torch.set_num_threads(1)
config = training_config.CodecTrainingConfig(
    preset="tiny",
    steps=6,
    batch_size=2,
    crop_size=32,
    perceptual_net="none",
    warmup_steps=2,
    restart_every=2,
)
trainer = training.CodecTrainer(config, data=sys.argv[1], run=sys.argv[2], cpu=True)
assert trainer.accelerator.num_processes == 2
trainer.train()
weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
everyone = trainer.accelerator.gather(weights[None])
assert torch.equal(everyone[0], everyone[1]), "ranks ended with different weights"
