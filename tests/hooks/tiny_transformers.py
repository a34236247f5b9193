# SPDX-License-Identifier: Apache-2.0
"""Tiny real instances of every diffusers transformer, for coverage tests of what hooks their blocks."""

import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from tiny_image_transformers import IMAGE_TABLE
from tiny_other_transformers import OTHER_TABLE
from tiny_video_transformers import PREPARE, VIDEO_TABLE
from torch import Tensor, nn

BATCH = 2

# Classes of diffusers.models.transformers that are no denoising transformer.
SKIPPED: dict[str, str] = {
    "MiniMaxMusic3RVQDepthDecoder": (
        "autoregressive decoder of audio codes: no timestep, no noisy input, not called once per step"
    ),
}


class Draw:
    """Draws the arguments of one call: equal seeds give equal draws, and `step` moves the noisy ones."""

    def __init__(self, step: float, seed: int) -> None:
        self.step = step
        self._generator = torch.Generator().manual_seed(seed)

    def fixed(self, *shape: int) -> Tensor:
        """A condition: the same at every step."""
        return self.raw(BATCH, *shape)

    def moving(self, *shape: int) -> Tensor:
        """Noisy latents: neighbouring steps differ slightly, as those of a sampler do."""
        return self.fixed(*shape) + 0.2 * self.step * self.fixed(*shape)

    def raw(self, *shape: int) -> Tensor:
        """A condition without a batch axis of its own."""
        return torch.randn(*shape, generator=self._generator)

    def index(self, high: int, *shape: int) -> Tensor:
        """Token or class numbers below `high`."""
        return torch.randint(high, (BATCH, *shape), generator=self._generator)

    def time(self, scale: float = 1000.0, *shape: int) -> Tensor:
        """The timestep, falling from 0.9 to 0.1 of `scale`."""
        return torch.full((BATCH, *shape), scale * (0.9 - 0.8 * self.step))

    def full(self, value: float, *shape: int) -> Tensor:
        return torch.full((BATCH, *shape), float(value))

    def mask(self, *shape: int, dtype: torch.dtype = torch.bool) -> Tensor:
        """A mask that keeps everything."""
        return torch.ones(BATCH, *shape, dtype=dtype)

    def ids(self, *grid: int, columns: int = 3) -> Tensor:
        """Positions of a grid's cells, one row each, the grid's axes in the columns after the first."""
        cells = torch.cartesian_prod(*(torch.arange(n) for n in grid)).float()
        cells = cells.reshape(-1, len(grid))
        before = 1 if len(grid) < columns else 0
        after = columns - before - len(grid)
        return nn.functional.pad(cells, (before, after))

    def rope(self, tokens: int, dim: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of one-dimensional rotary positions."""
        speed = 10.0 ** -torch.linspace(0, 2, dim // 2)
        angles = (torch.arange(tokens)[:, None] * speed).repeat_interleave(2, dim=1)
        return angles.cos(), angles.sin()


MakeInputs = Callable[[Draw], dict[str, Any]]


@dataclass(frozen=True)
class TinyTransformer:
    """One diffusers transformer class at toy size."""

    name: str
    config: dict[str, Any]
    make_inputs: MakeInputs

    def build(self) -> Any:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            # diffusers' Chroma still takes the position embedding from where it is deprecated.
            warnings.filterwarnings("ignore", message="`FluxPosEmbed` is deprecated")
            model = getattr(diffusers, self.name)(**self.config).float().eval()
        _randomise(model)
        if self.name in PREPARE:
            PREPARE[self.name](model)
        return model

    def inputs(self, step: float, seed: int = 0) -> dict[str, Any]:
        return self.make_inputs(Draw(step, seed))


def _randomise(model: nn.Module) -> None:
    # Zero-initialised output layers and gates would hide the blocks from the output.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            around = 1.0 if "Norm" in type(module).__name__ else 0.0
            for name, parameter in module.named_parameters(recurse=False):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.05 * noise + (around if name == "weight" else 0.0))


def call(model: Any, inputs: dict[str, Any]) -> list[Tensor]:
    """Every tensor of the model's answer, in order."""
    # Some classes (T5FilmDecoder) always answer with tensors and take no return_dict.
    plain = {"return_dict": False} if _takes_return_dict(model) else {}
    with torch.no_grad(), warnings.catch_warnings():
        # PyTorch's flex_attention says that it is slow when it is not compiled; here it need not be fast.
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        # diffusers' Mochi turns autocast off by asking for float32.
        warnings.filterwarnings("ignore", message="In CPU autocast, but the target dtype is not")
        return list(_tensors(model(**inputs, **plain)))


def _takes_return_dict(model: Any) -> bool:
    return "return_dict" in inspect.signature(type(model).forward).parameters


def _tensors(answer: Any) -> Iterable[Tensor]:
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, list | tuple):
        for part in answer:
            yield from _tensors(part)


def transformer_classes() -> list[str]:
    """Public names of every model class that diffusers keeps under models/transformers."""
    names = []
    for name in dir(diffusers):
        # This imports all of it, and parts of transformers that warn of themselves.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = getattr(diffusers, name)
        if (
            inspect.isclass(value)
            and issubclass(value, diffusers.ModelMixin)
            and value.__module__.startswith("diffusers.models.transformers.")
        ):
            names.append(name)
    return names


TINY_TRANSFORMERS: dict[str, TinyTransformer] = {
    name: TinyTransformer(name, config, make_inputs)
    for name, (config, make_inputs) in sorted({**IMAGE_TABLE, **VIDEO_TABLE, **OTHER_TABLE}.items())
}
