# SPDX-License-Identifier: Apache-2.0
"""``output_type="genaccel"`` for any diffusers pipeline that makes images: compressed files instead of pixels."""

from __future__ import annotations

import inspect
import os
from typing import Any

from diffusers import DiffusionPipeline

from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.image_codec import DEFAULT_MODEL, ImageCodec
from genaccel.files.images import ReadPolicy
from genaccel.pipelines.pipeline_mixin import Flag, PipelineMixin, stock_call
from genaccel.sampling.images import to_loaded

OUTPUT_TYPE = "genaccel"
# Some generators make layers.
_POLICY = ReadPolicy(transparency="keep")

_FLAG = Flag(
    name="codec",
    annotation=str | ImageCodec | None,
    documentation=(
        "codec (`str` or `ImageCodec`, *optional*):",
        '    With `output_type="genaccel"`, which gives `images` as the contents of `.gac` files: the model to',
        "    compress with, by name, folder or as a `genaccel.codec.ImageCodec`; by default that of `set_codec`.",
    ),
)


class VQCompressionMixin(PipelineMixin):
    """Adds ``output_type="genaccel"`` (RDVQ, arXiv:2604.10546) to the call of a diffusers pipeline.

    It goes before the pipeline in the list of bases. ``images`` of the output are then ``bytes``, one an image: the
    contents of ``.gac`` files, as ``genaccel encode`` writes them and ``genaccel decode`` reads them. All other output
    types are the stock pipeline's.

    The codec is no component: it is not saved with the pipeline, stays in float32, and runs where the pipeline does.

    Example:
        >>> from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
        >>> class CompressingDiTPipeline(VQCompressionMixin, DiTPipeline):
        ...     pass
        >>> transformer = DiTTransformer2DModel(
        ...     sample_size=8, num_layers=1, num_attention_heads=2, attention_head_dim=8, out_channels=4
        ... )
        >>> pipe = CompressingDiTPipeline(transformer, AutoencoderKL(), DDIMScheduler())
        >>> pipe.set_codec("photo-codec-high").codec.model_name
        'photo-codec-high'
    """

    flags = (_FLAG,)

    # Not set in __init__, which must stay the stock one: diffusers reads the components off its signature.
    _loaded_codec: tuple[str, str, ImageCodec] | None = None
    _execution_device: Any  # of the pipeline
    _chosen_codec: Any = DEFAULT_MODEL
    _encode_options: EncodeOptions = EncodeOptions()

    def __call__(self, *args: Any, codec: Any = None, **kwargs: Any) -> Any:
        """Generate; all arguments but ``codec`` are the stock pipeline's.

        Raises:
            ValueError: If ``output_type="genaccel"`` is asked of a pipeline that makes no images, or a codec is named
                without it.
            TypeError: If ``codec`` is nothing of the kind.
            UnknownModelError: If there is no such codec.
            LimitExceededError: If an image is larger than the codec's limits allow.
        """
        call = inspect.signature(stock_call(type(self)))
        names = list(call.parameters)[1 : len(args) + 1]
        position = names.index("output_type") if "output_type" in names else None
        asked = kwargs.get("output_type") if position is None else args[position]
        if asked != OUTPUT_TYPE:
            if codec is not None:
                raise ValueError(
                    f'codec= goes with output_type="{OUTPUT_TYPE}", got output_type={asked!r}'
                )
            return super().__call__(*args, **kwargs)  # type: ignore[misc]  # the pipeline's, behind the mixin
        self._refuse_others_than_images(call)
        chosen = self._codec_of(self._chosen_codec if codec is None else codec)
        if position is None:
            kwargs["output_type"] = "pil"
        else:
            args = (*args[:position], "pil", *args[position + 1 :])
        output = super().__call__(*args, **kwargs)  # type: ignore[misc]
        images = output[0] if isinstance(output, tuple) else getattr(output, "images", None)
        if images is None:
            raise ValueError(_no_images(self, f"its output has {', '.join(output)}"))
        files = [
            chosen.encode(image.pixels, self._encode_options, alpha=image.alpha)
            for image in to_loaded(images, _POLICY)
        ]
        if isinstance(output, tuple):
            return (files, *output[1:])
        output.images = files
        return output

    def set_codec(self, codec: Any = DEFAULT_MODEL, **encode_options: Any) -> VQCompressionMixin:
        """Choose the model that ``output_type="genaccel"`` compresses with, and how.

        Args:
            codec: Name in the zoo, folder, :class:`~genaccel.codec.image_codec.ImageCodec`, or a ``CodecPipeline``.
            encode_options: Options of :class:`~genaccel.codec.encoder.encode_options.EncodeOptions`, such as ``bits_per_pixel=0.1``; they
                go for other codecs of single calls, too.

        Returns:
            The pipeline.

        Raises:
            TypeError: If it is nothing of the kind, or an option is unknown.
            ValueError: If an option is out of range.
            UnknownModelError: If there is no such model.
        """
        options = EncodeOptions(**encode_options)
        self._codec_of(codec)
        self._chosen_codec = codec
        self._encode_options = options
        return self

    @property
    def codec(self) -> ImageCodec:
        """The codec that ``output_type="genaccel"`` compresses with, on the pipeline's device."""
        return self._codec_of(self._chosen_codec)

    def _codec_of(self, codec: Any) -> ImageCodec:
        if isinstance(codec, ImageCodec):
            return codec
        # Not by its class: a file that diffusers runs as custom code has a class of its own.
        made = getattr(codec, "codec", None) if isinstance(codec, DiffusionPipeline) else None
        if isinstance(made, ImageCodec):
            return made
        if not isinstance(codec, str | os.PathLike):
            raise TypeError(
                "codec must be a name in the zoo, a folder, an ImageCodec or a CodecPipeline, "
                f"got {type(codec).__name__}"
            )
        key = (os.fspath(codec), str(self._execution_device))
        if self._loaded_codec is None or self._loaded_codec[:2] != key:
            self._loaded_codec = (*key, ImageCodec.from_pretrained(*key))
        return self._loaded_codec[2]

    def _refuse_others_than_images(self, call: inspect.Signature) -> None:
        """Raise ValueError if the pipeline makes no images, before it has run for minutes."""
        if "output_type" not in call.parameters:
            raise ValueError(_no_images(self, "its call has no output_type"))
        for name in ("num_frames", "audio_end_in_s", "audio_length_in_s"):
            if name in call.parameters:
                raise ValueError(_no_images(self, f"its call has {name}"))


def _no_images(pipeline: Any, reason: str) -> str:
    return f'output_type="{OUTPUT_TYPE}" needs a pipeline that makes images, and {type(pipeline).__name__} makes none: {reason}'
