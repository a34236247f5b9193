# SPDX-License-Identifier: Apache-2.0
"""Small models whose blocks do what those of diffusers do, each oddity by itself."""

import torch
from torch import nn

WIDTH = 8


class Attention(nn.Module):
    """Named so that lists of blocks are found by it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return torch.tanh(self.linear(x))


class Block(nn.Module):
    """Image states in, image states out."""

    def __init__(self):
        super().__init__()
        self.attn = Attention()

    def forward(self, hidden_states, temb):
        return hidden_states + self.attn(hidden_states + temb)


class InPlaceBlock(Block):
    """Adds to its argument."""

    def forward(self, hidden_states, temb):
        hidden_states += self.attn(hidden_states + temb)
        return hidden_states


class TextFirstBlock(Block):
    """Text and image states: (E, H)."""

    def forward(self, hidden_states, encoder_hidden_states, temb):
        both = torch.cat([encoder_hidden_states, hidden_states], 1)
        both = both + self.attn(both + temb)
        n = encoder_hidden_states.shape[1]
        return both[:, :n], both[:, n:]


class ImageFirstBlock(TextFirstBlock):
    """(H, E)."""

    def forward(self, hidden_states, encoder_hidden_states, temb):
        text, image = super().forward(hidden_states, encoder_hidden_states, temb)
        return image, text


class LastTextBlock(TextFirstBlock):
    """(None, H), as SD3's last."""

    def forward(self, hidden_states, encoder_hidden_states, temb):
        return None, super().forward(hidden_states, encoder_hidden_states, temb)[1]


class ShrinkingBlock(Block):
    """Returns states of another shape, which continue no argument."""

    def forward(self, hidden_states, temb):
        return self.attn(hidden_states + temb)[:, ::2]


class SkipBlock(Block):
    """Takes the output of an earlier block besides that of the last."""

    def forward(self, hidden_states, temb, skip=None):
        given = hidden_states if skip is None else hidden_states + skip
        return given + self.attn(given + temb)


class NumberBlock(Block):
    """Returns something else than tensors."""

    def forward(self, hidden_states, temb):
        return super().forward(hidden_states, temb), 3


class Model(nn.Module):
    """Projects, calls its blocks, projects."""

    def __init__(self, *blocks):
        super().__init__()
        self.proj_in = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(blocks)
        self.proj_out = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states, timestep):
        x, temb = self.proj_in(hidden_states), self.embed(timestep)
        for block in self.blocks:
            x = block(x, temb)
            x = x[0] if isinstance(x, tuple) else x
        return self.proj_out(x)

    def embed(self, timestep):
        return torch.sin(timestep / 300)[:, None, None].to(self.proj_in.weight.dtype)


class KeywordModel(Model):
    """Calls its blocks by keywords."""

    def forward(self, hidden_states, timestep):
        x, temb = self.proj_in(hidden_states), self.embed(timestep)
        for block in self.blocks:
            x = block(temb=temb, hidden_states=x)
        return self.proj_out(x)


class TwoStreamModel(Model):
    """Text and image; the order of the blocks' outputs is that of `image_first`."""

    image_first = False

    def forward(self, hidden_states, timestep):
        x, temb = self.proj_in(hidden_states), self.embed(timestep)
        text = x[:, :2].contiguous()
        for block in self.blocks:
            first, second = block(hidden_states=x, encoder_hidden_states=text, temb=temb)
            x, text = (first, second) if self.image_first else (second, first)
        return self.proj_out(x if text is None else torch.cat([text, x], 1))


class ImageFirstModel(TwoStreamModel):
    image_first = True


class ResidualModel(Model):
    """Changes the states between the blocks, in place, as ControlNet residuals do."""

    def forward(self, hidden_states, timestep):
        x, temb = self.proj_in(hidden_states), self.embed(timestep)
        for block in self.blocks:
            x = block(x, temb)
            x += 0.1
        return self.proj_out(x)


class SkippingModel(Model):
    """Like a U-Net: the first block's output is used again by the last."""

    def forward(self, hidden_states, timestep):
        x, temb = self.proj_in(hidden_states), self.embed(timestep)
        skip = None
        for i, block in enumerate(self.blocks):
            x = block(x, temb, skip if i == len(self.blocks) - 1 else None)
            skip = x if i == 0 else skip
        return self.proj_out(x)


class TwiceModel(Model):
    """Calls all of its blocks twice."""

    def forward(self, hidden_states, timestep):
        x, temb = self.proj_in(hidden_states), self.embed(timestep)
        for block in [*self.blocks, *self.blocks]:
            x = block(x, temb)
        return self.proj_out(x)


class BreakableModel(Model):
    """Raises in the middle when told to."""

    is_broken = False

    def forward(self, hidden_states, timestep):
        x, temb = self.proj_in(hidden_states), self.embed(timestep)
        for i, block in enumerate(self.blocks):
            if i == 1 and self.is_broken:
                raise RuntimeError("the device is gone")
            x = block(x, temb)
        return self.proj_out(x)


def build(model_class=Model, block_class=Block, count=3):
    """A model of equal blocks, the same every time."""
    torch.manual_seed(0)
    return model_class(*(block_class() for _ in range(count))).eval()


def run(model, steps, *, seed=0, batch=1, tokens=4, dtype=torch.float32, first=900.0):
    """Outputs of a run: latents change slightly from step to step."""
    with torch.no_grad():
        return [
            model(*inputs(s, seed=seed, batch=batch, tokens=tokens, dtype=dtype, first=first))
            for s in range(steps)
        ]


def inputs(step, *, seed=0, batch=1, tokens=4, dtype=torch.float32, first=900.0):
    """Arguments of the call of a step."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(batch, tokens, WIDTH, generator=generator)
    noise = torch.randn(batch, tokens, WIDTH, generator=generator)
    return (start + 0.05 * step * noise).to(dtype), torch.full((batch,), first - 10.0 * step)


def same(first, second):
    """Whether two runs are equal, bit for bit."""
    return len(first) == len(second) and all(map(torch.equal, first, second))
