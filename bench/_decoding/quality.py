# SPDX-License-Identifier: Apache-2.0
"""Judges of sets of pictures: the kernel distance of features, and whether digits are what they should be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from genaccel.data.digits import load_digits
from genaccel.eval._sets.extractors import Extractor
from genaccel.eval.fd_mobilenet_v2 import load_mobilenet_v2
from genaccel.files.atomic import write_atomically

__all__ = ["digit_classifier", "features_of", "load_mobilenet_v2"]

_EPOCHS, _BATCH = 3, 128


@torch.inference_mode()
def features_of(extractor: Extractor, pictures: Iterable[Tensor]) -> NDArray[np.float32]:
    """Features ``[N, D]`` of pictures ``[n, 3, H, W]`` in [-1, 1], rounded to 8 bits as files would be."""
    found = []
    for batch in pictures:
        bytes_ = ((batch + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        inputs = torch.stack([extractor.prepare(image) for image in bytes_])
        found.append(extractor(inputs).float().cpu().numpy())
    return np.concatenate(found)


class DigitClassifier(nn.Module):
    """A small convolutional network for digits of MNIST; half of what it sees while it learns is shifted by a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 49, 10),
        )

    def forward(self, images: Tensor) -> Tensor:  # [B, 28, 28] in [-1, 1] -> [B, 10]
        scores: Tensor = self.layers(images[:, None])
        return scores

    @torch.inference_mode()
    def share_right(self, images: Tensor, labels: Tensor) -> float:
        """Share of pictures ``[N, 28, 28]`` in [-1, 1] that it takes for their labels ``[N]``."""
        guesses = torch.cat([self(part).argmax(1) for part in images.split(500)])
        return float((guesses == labels).double().mean())


def middle(pictures: Tensor) -> Tensor:
    """Grey values ``[N, 28, 28]`` of the middles of pictures ``[N, 3, H, W]``, where generators of digits put them."""
    top, left = ((side - 28) // 2 for side in pictures.shape[2:])
    return pictures.mean(1)[:, top : top + 28, left : left + 28]


def digit_classifier(data: Path, cache: Path, *, seed: int = 0) -> tuple[DigitClassifier, float]:
    """A classifier that learned from the training digits of a folder, and its accuracy on the others.

    Args:
        data: Folder that ``genaccel data digits`` wrote.
        cache: File of its weights: taken from there if it is there, else trained and written.
        seed: Of the training.
    """
    torch.manual_seed(seed)
    network = DigitClassifier()
    if cache.is_file():
        network.load_state_dict(load_file(cache))
    else:
        _train(network, *_pictures(data, "train"))
        write_atomically(cache, save(network.state_dict()), parents=True)
    network.eval()
    return network, network.share_right(*_pictures(data, "test"))


def _pictures(data: Path, split: str) -> tuple[Tensor, Tensor]:
    digits = load_digits(data, "train" if split == "train" else "test")
    return torch.from_numpy(digits.images) / 127.5 - 1, torch.from_numpy(digits.labels).long()


def _train(network: DigitClassifier, images: Tensor, labels: Tensor) -> None:
    steps = _EPOCHS * (len(images) // _BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for step in range(steps):
        first = step % (len(images) // _BATCH) * _BATCH
        if not first:
            order = torch.randperm(len(images))
        picked = order[first : first + _BATCH]
        shift = torch.randint(-1, 2, (2,)).tolist()
        batch = torch.roll(images[picked], shift, (1, 2)) if step % 2 else images[picked]
        loss = F.cross_entropy(network(batch), labels[picked])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
