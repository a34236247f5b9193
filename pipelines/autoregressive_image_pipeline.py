# SPDX-License-Identifier: Apache-2.0
"""Class-conditional images from a language model over image tokens (LlamaGen, arXiv:2406.06525), decoded speculatively."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import VQModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from torch import Tensor
from transformers import LlamaForCausalLM

from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.drafting import Drafter
from genaccel.skip_decoding.enable import PipelineDecoding
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.report import DecodingReport
from genaccel.skip_decoding.sampling import SamplingRule

# Seeds that a generator can give.
_LARGEST_SEED = 2**63 - 1


@dataclass
class AutoregressiveImageOutput(BaseOutput):
    """Pictures, the tokens that they were decoded from, and what drawing those cost.

    Attributes:
        images: In the form that ``output_type`` names.
        tokens: Of each picture, ``[B, h * w]``, row by row from the top left.
        report: Forwards, acceptance and times.
    """

    images: Any
    tokens: Tensor
    report: DecodingReport


class AutoregressiveImagePipeline(DiffusionPipeline):
    """Class -> tokens -> picture.

    A sequence is the token of a class and then those of the picture. Tokens below the codebook's size are code words, the
    next ones the classes, and the last one stands for no class. ``genaccel train vq`` and ``genaccel train ar`` make both
    models.

    Args:
        transformer: The language model.
        vqvae: Tokeniser whose indices it draws.
        class_names: Names of the classes, in the order of their labels; by default there are none.

    Raises:
        ValueError: If the transformer has not a token for each code word, each class, and none.

    Example:
        >>> from genaccel.pipelines.autoregressive_image_pipeline import AutoregressiveImagePipeline
        >>> pipe = AutoregressiveImagePipeline.from_pretrained("folder")  # doctest: +SKIP
        >>> image = pipe([pipe.labels["mountain"]], seed=7).images[0]  # doctest: +SKIP
    """

    model_cpu_offload_seq: Any = "transformer->vqvae"

    # Without their types, which say little of what transformers and diffusers add when they run.
    transformer: Any
    vqvae: Any
    config: Any

    def __init__(
        self, transformer: LlamaForCausalLM, vqvae: VQModel, class_names: list[str] | None = None
    ) -> None:
        super().__init__()
        tokenizer: Any = vqvae
        code_words, needed = int(tokenizer.config.num_vq_embeddings), len(class_names or ()) + 1
        if transformer.config.vocab_size != code_words + needed:
            raise ValueError(
                f"the transformer has {transformer.config.vocab_size} tokens; {code_words} code words, "
                f"{len(class_names or ())} classes and one for none are {code_words + needed}"
            )
        self.register_modules(transformer=transformer, vqvae=vqvae)
        self.register_to_config(class_names=list(class_names or ()))
        self._stride = 2 ** (len(tokenizer.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self._stride)

    @property
    def labels(self) -> dict[str, int]:
        """Labels of the classes by their names."""
        return {name: label for label, name in enumerate(self.config.class_names)}

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        *,
        guidance_scale: float = 1.5,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        drafter: Drafter | None = None,
        options: DecodingOptions | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_tokens: Callable[[int, int], object] | None = None,
    ) -> AutoregressiveImageOutput | tuple[Any]:
        """Draw a picture of each class.

        Args:
            class_labels: Labels; :attr:`labels` has them by name. -1 is a picture of no class.
            guidance_scale: Of classifier-free guidance; at 1 there is none.
            temperature: Divides the logits; 0 takes the likeliest token.
            top_k: Tokens that can be drawn; 0 for all.
            top_p: Least probability that the tokens together have that can be drawn.
            height: Of the pictures in pixels, a multiple of the tokeniser's stride; by default that of its training. The
                language model knows no other number of tokens in a row than it was trained for.
            width: As height.
            generator: Gives the seed where there is none.
            seed: Of the pictures: picture n of a call is drawn with the noise of this seed and n, whatever the drafter.
            drafter: Guesses tokens, which are then verified several at a time. It and ``options`` go before what
                ``genaccel.enable`` has enabled on the pipeline.
            options: What may differ from the pictures without a drafter; its seed counts where neither of the others is given.
            output_type: ``"pil"``, ``"np"``, ``"pt"`` or ``"latent"`` for the tokens alone, as ``images`` too.
            return_dict: Return an output, not a tuple of images.
            callback_on_tokens: Called with the tokens that are drawn and their number; what it raises ends the call.

        Raises:
            ValueError: If a label or a size does not exist.
            TypeError: If labels are no numbers, or there are several generators.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(
                f'output_type must be "pil", "np", "pt" or "latent", got {output_type!r}'
            )
        count = len(self.config.class_names)
        try:
            class_labels = [operator.index(label) for label in class_labels]
        except TypeError:
            raise TypeError(
                f"class_labels must be a list of numbers, which labels has by their names, got {class_labels!r}"
            ) from None
        if not isinstance(generator, torch.Generator | None):
            raise TypeError(
                f"generator must be one torch.Generator for all pictures, got a {type(generator).__name__}"
            )
        wrong = [label for label in class_labels if not -1 <= label < count]
        if wrong:
            raise ValueError(
                f"class_labels must be from 0 to {count - 1}, or -1 for none, got {wrong[0]}"
            )
        rows, columns = self._grid(height, width)
        first = int(self.vqvae.config.num_vq_embeddings)
        device = self._execution_device
        labels = torch.tensor(class_labels, dtype=torch.long, device=device)
        no_class = torch.full((len(labels), 1), first + count, device=device)
        if seed is None and generator is not None:
            seed = int(
                torch.randint(_LARGEST_SEED, (1,), generator=generator, device=generator.device)
            )
        enabled = None
        if drafter is None and options is None:
            enabled = PipelineDecoding.of(self)
        prompts = torch.where(labels[:, None] < 0, no_class, labels[:, None] + first)
        arguments: dict[str, Any] = {
            "rule": SamplingRule(
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                guidance_scale=guidance_scale,
                allowed=(0, first),
            ),
            "max_new_tokens": rows * columns,
            "negative_prompts": no_class,
            "on_tokens": callback_on_tokens,
        }
        if enabled is not None:
            decoded = enabled.decode(self, prompts, seed=seed, row_length=columns, **arguments)
        else:
            options = options or DecodingOptions()
            decoded = decode(
                self.transformer,
                prompts,
                drafter=drafter,
                options=options if seed is None else options.with_seed(seed),
                **arguments,
            )
        images: Any = decoded.tokens
        if output_type != "latent":
            pictures = self.decode_tokens(decoded.tokens, rows, columns)
            images = self.image_processor.postprocess(pictures, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images,)
        return AutoregressiveImageOutput(
            images=images, tokens=decoded.tokens, report=decoded.report
        )

    def decoding_parts(self) -> tuple[Any, Tensor]:
        """The model that draws, and the code words ``[K, C]`` of its tokens, for ``genaccel.enable``."""
        return self.transformer, self.vqvae.quantize.embedding.weight.detach()

    @torch.no_grad()
    def decode_tokens(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """Pictures of tokens ``[B, rows * columns]``: float32 ``[B, 3, H, W]``, in [-1, 1] but for overshoots."""
        channels = int(self.vqvae.config.latent_channels)
        shape = (len(tokens), rows, columns, channels)
        codes = self.vqvae.quantize.get_codebook_entry(tokens.flatten(), shape)
        decoded: Tensor = self.vqvae.decoder(self.vqvae.post_quant_conv(codes.to(self.vqvae.dtype)))
        return decoded.float()

    def _grid(self, height: int | None, width: int | None) -> tuple[int, int]:
        stride = self._stride
        own = int(self.vqvae.config.sample_size)
        sides = [own if side is None else side for side in (height, width)]
        if any(side < 1 or side % stride for side in sides):
            raise ValueError(
                f"height and width must be multiples of {stride}, got {sides[0]} and {sides[1]}"
            )
        return sides[0] // stride, sides[1] // stride
