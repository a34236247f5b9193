# SPDX-License-Identifier: Apache-2.0
"""Multi-scale vector-quantised autoencoder with one shared codebook (RDVQ, arXiv 2604.10546).

    image -> encoder -> one latent per scale -> 1x1 convolution -> nearest code word -> indices
    indices -> code words -> 1x1 convolution -> decoder -> image

Scales are ordered from coarse to fine everywhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genaccel.files.untrusted import shown
from genaccel.layers.vector_quantizer import VectorQuantizer
from genaccel.models.efficient_backbone import EfficientParams
from genaccel.models.ranges import require_whole
from genaccel.models.saved_network import SavedNetwork
from genaccel.models.vqgan_backbone import VqganParams

CDF_PRECISION = 16  # bits; what the 32-bit range coder takes
MAX_CODEBOOK_DIM = 1024

_BACKBONES: dict[str, Callable[..., VqganParams | EfficientParams]] = {
    "vqgan": VqganParams,
    "efficient": EfficientParams,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderParams:
    """Configuration of the network: the size of its codebook, and a backbone."""

    codebook_size: int = 4096
    codebook_dim: int = 32
    backbone: VqganParams | EfficientParams = field(default_factory=VqganParams)

    def __post_init__(self) -> None:
        # Each symbol needs a slot of its own in a 16-bit table, and some are left over for the frequent ones.
        require_whole("codebook_size", self.codebook_size, 2, 2 ** (CDF_PRECISION - 1))
        require_whole("codebook_dim", self.codebook_dim, 1, MAX_CODEBOOK_DIM)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per token, coarse to fine."""
        return self.backbone.strides

    @property
    def alignment(self) -> int:
        """Height and width of the network's input must be multiples of this many pixels."""
        return self.strides[0]

    @property
    def halo(self) -> int | None:
        """Pixels of context that make a tile equal to the whole image; None if no context does."""
        return self.backbone.halo

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; ``from_dict`` reads it back."""
        name = next(n for n, cls in _BACKBONES.items() if type(self.backbone) is cls)
        return {
            "codebook_size": self.codebook_size,
            "codebook_dim": self.codebook_dim,
            "backbone": {"type": name, **dataclasses.asdict(self.backbone)},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderParams:
        """Build from ``to_dict`` output.

        Raises:
            ValueError: For an unknown backbone type, or unknown or missing keys.
        """
        rest = dict(values)
        backbone = rest.pop("backbone", {})
        if not isinstance(backbone, Mapping):
            raise ValueError(f"backbone must be an object, got {shown(backbone)}")
        backbone = dict(backbone)
        name = backbone.pop("type", None)
        if not isinstance(name, str) or name not in _BACKBONES:
            raise ValueError(
                f"backbone type must be one of {sorted(_BACKBONES)}, got {shown(name)}"
            )
        lists_as_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in backbone.items()}
        try:
            return cls(backbone=_BACKBONES[name](**lists_as_tuples), **rest)
        except TypeError as error:
            raise ValueError(f"autoencoder configuration does not fit: {error}") from error


PRESETS: Mapping[str, AutoencoderParams] = {
    # Strides 64, 32, 16; 71.0 M + 92.5 M parameters; at most 0.0615 bits per pixel.
    "paper": AutoencoderParams(),
    # Strides 32, 16, 8; at most 0.205 bits per pixel; runs at codec speed on a CPU.
    "small": AutoencoderParams(codebook_size=1024, codebook_dim=8, backbone=EfficientParams()),
}


class AutoencoderOutput(NamedTuple):
    """Results of one forward pass that the losses of a training step need."""

    reconstruction: Tensor  # [B, 3, H, W], not clamped
    indices: list[Tensor]  # coarse to fine, [B, H/s, W/s] int64
    features: list[Tensor]  # coarse to fine, [B, C, H/s, W/s], before the quantiser
    code_vectors: list[Tensor]  # alike, after it: unit norm, straight-through gradient
    codebook_loss: Tensor  # scalar, mean over all tokens
    commitment_loss: Tensor  # scalar, mean over all tokens


class Autoencoder(SavedNetwork):
    """Encodes images to index maps, one per scale, and decodes them.

    Buffers:
        index_cdfs: int32 ``[scales, K + 1]``: a static 16-bit cumulative table per scale, used to code the
            indices; uniform until ``genaccel.codec.training.index_statistics`` has measured real ones.

    Example:
        >>> import torch
        >>> model = Autoencoder(PRESETS["small"]).eval()
        >>> indices = model.encode(torch.zeros(1, 3, 64, 96))
        >>> [tuple(index_map.shape) for index_map in indices]
        [(1, 2, 3), (1, 4, 6), (1, 8, 12)]
    """

    model_type = "autoencoder"
    params_class = AutoencoderParams
    stored_dtype = torch.float16
    params: AutoencoderParams
    index_cdfs: Tensor

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        self.params = params
        self.encoder, self.decoder = params.backbone.build()
        self.quantize = VectorQuantizer(params.codebook_size, params.codebook_dim)
        channels = {f"s{i + 1}": c for i, c in enumerate(params.backbone.scale_channels)}
        self.quant_conv_list = nn.ModuleDict(
            {s: nn.Conv2d(c, params.codebook_dim, 1) for s, c in channels.items()}
        )
        self.post_quant_conv_list = nn.ModuleDict(
            {s: nn.Conv2d(params.codebook_dim, c, 1) for s, c in channels.items()}
        )
        size = params.codebook_size
        uniform = (torch.arange(size + 1, dtype=torch.int64) << CDF_PRECISION) // size
        self.register_buffer(
            "index_cdfs", uniform.to(torch.int32).repeat(len(channels), 1), persistent=True
        )

    def check_tensors(self) -> None:
        """Refuse static tables that no coder can use, as the base says."""
        cdfs = self.index_cdfs
        whole = bool((cdfs[:, 0] == 0).all()) and bool((cdfs[:, -1] == 1 << CDF_PRECISION).all())
        if not whole or bool((cdfs.diff(dim=1) < 1).any()):
            raise ValueError(f"index_cdfs must increase from 0 to {1 << CDF_PRECISION}")

    def features(self, x: Tensor) -> list[Tensor]:
        """Features as they enter the quantiser: a map ``[B, C, H/s, W/s]`` per stride s, coarse to fine.

        Args:
            x: ``[B, 3, H, W]`` in [-1, 1]; H and W multiples of ``params.alignment``.

        Raises:
            ValueError: For another shape.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"x must have shape [B, 3, H, W], got {tuple(x.shape)}")
        height, width = x.shape[2:]
        alignment = self.params.alignment
        if height == 0 or width == 0 or height % alignment or width % alignment:
            raise ValueError(
                f"x must have a height and a width that are multiples of {alignment}, got {height}x{width}"
            )
        latents = self.encoder(x)
        return [
            conv(latent)
            for conv, latent in zip(self.quant_conv_list.values(), latents, strict=True)
        ]

    def synthesise(self, codes: Sequence[Tensor]) -> Tensor:
        """Image ``[B, 3, H, W]`` from code vectors ``[B, C, H/s, W/s]``, coarse to fine; differentiable."""
        latents = [
            conv(code) for conv, code in zip(self.post_quant_conv_list.values(), codes, strict=True)
        ]
        return self.decoder(latents)

    def forward(self, x: Tensor) -> AutoencoderOutput:
        """Reconstruct ``x`` ``[B, 3, H, W]`` in [-1, 1], with all that the losses need."""
        features = self.features(x)
        quantized = [self.quantize(feature) for feature in features]
        tokens = [q.indices.numel() for q in quantized]
        weights = [count / sum(tokens) for count in tokens]  # each token counts once
        codebook_loss = sum(w * q.codebook_loss for w, q in zip(weights, quantized, strict=True))
        commitment = sum(w * q.commitment_loss for w, q in zip(weights, quantized, strict=True))
        code_vectors = [q.values for q in quantized]
        return AutoencoderOutput(
            reconstruction=self.synthesise(code_vectors),
            indices=[q.indices for q in quantized],
            features=features,
            code_vectors=code_vectors,
            codebook_loss=torch.as_tensor(codebook_loss),
            commitment_loss=torch.as_tensor(commitment),
        )

    def encode(self, x: Tensor) -> list[Tensor]:
        """Index maps of an image.

        Args:
            x: ``[B, 3, H, W]`` in [-1, 1]; H and W multiples of ``params.alignment``.

        Returns:
            One int64 map ``[B, H/s, W/s]`` per stride s, coarse to fine.

        Raises:
            ValueError: For another shape.
        """
        return [self.quantize(feature).indices for feature in self.features(x)]

    def decode(self, indices: Sequence[Tensor]) -> Tensor:
        """Image ``[B, 3, H, W]`` from index maps, coarse to fine; values may leave [-1, 1] a little.

        Raises:
            ValueError: If the maps do not fit each other, or an index is not in the codebook.
        """
        strides = self.params.strides
        if len(indices) != len(strides):
            raise ValueError(f"indices must have {len(strides)} maps, got {len(indices)}")
        sizes = {tuple(d * s for d in m.shape[1:]) for m, s in zip(indices, strides, strict=True)}
        if len(sizes) != 1:
            raise ValueError(f"index maps must cover one image size, got {sorted(sizes)}")
        for index_map in indices:
            if int(index_map.min()) < 0 or int(index_map.max()) >= self.params.codebook_size:
                raise ValueError(f"indices must be in [0, {self.params.codebook_size})")
        return self.synthesise([self.quantize.lookup(index_map) for index_map in indices])

    def digest(self) -> bytes:
        """SHA-256 over the params and all tensors: what must be equal for two sides to understand a file."""
        sha = hashlib.sha256(json.dumps(self.params.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            # fp16 is the stored form: a model must have one digest, whether loaded or about to be saved.
            stored = tensor.half() if tensor.is_floating_point() else tensor
            sha.update(f"{name}:{tuple(tensor.shape)}".encode())
            sha.update(stored.detach().cpu().contiguous().numpy().tobytes())
        return sha.digest()
