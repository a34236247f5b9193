# SPDX-License-Identifier: Apache-2.0
"""The image codec as a diffusers pipeline: images to very small files and back (RDVQ, arXiv:2604.10546)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput

from genaccel import zoo
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.exif_xmp import kept, read_metadata, write_metadata
from genaccel.codec.format.bitstream import CUSTOM_MODEL_NUMBER
from genaccel.codec.image_codec import DEFAULT_MODEL, ImageCodec
from genaccel.files.images import LoadedImage, ReadPolicy
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.integer_entropy_model import IntegerEntropyModel
from genaccel.pipelines.codec_models import CodecAutoencoder, CodecEntropyModel
from genaccel.sampling.images import check_output_type, from_pixels, to_loaded


@dataclass
class CodecPipelineOutput(BaseOutput):
    """Images after compression, and the files that they were compressed to.

    Attributes:
        images: The decoded images, in the form that ``output_type`` names.
        files: Contents of the ``.gac`` files.
        bits_per_pixel: Bits of each file, with its header, over the image's pixels.
    """

    images: Any
    files: list[bytes]
    bits_per_pixel: list[float]


class CodecPipeline(DiffusionPipeline):
    """Compresses images; a ``DiffusionPipeline`` around :class:`~genaccel.codec.image_codec.ImageCodec`.

    Its files are those of ``genaccel encode``. They depend on the weights, so that the networks stay in float32.

    Args:
        autoencoder: Autoencoder of the codec; a plain :class:`~genaccel.models.autoencoder.Autoencoder` is taken too.
        entropy_model: Makes the files smaller; None for the autoencoder's own tables.
        model_number: The model's number in the zoo; 0 for one outside it.

    Example:
        >>> from PIL import Image
        >>> from genaccel.pipelines.codec_pipeline import CodecPipeline
        >>> pipe = CodecPipeline.from_pretrained("photo-codec-high")
        >>> image = Image.new("RGB", (320, 240), "olive")
        >>> files = pipe.encode(image)
        >>> pipe.decode(files)[0].size
        (320, 240)
    """

    autoencoder: CodecAutoencoder
    entropy_model: CodecEntropyModel | None
    _optional_components = ["entropy_model"]  # noqa: RUF012 - as in diffusers

    def __init__(
        self,
        autoencoder: CodecAutoencoder,
        entropy_model: CodecEntropyModel | None = None,
        model_number: int = CUSTOM_MODEL_NUMBER,
    ) -> None:
        super().__init__()
        if isinstance(autoencoder, Autoencoder):
            autoencoder = CodecAutoencoder(autoencoder)
        if isinstance(entropy_model, IntegerEntropyModel):
            entropy_model = CodecEntropyModel(entropy_model)
        self.register_modules(autoencoder=autoencoder, entropy_model=entropy_model)
        self.register_to_config(model_number=model_number)
        self._made_codec: ImageCodec | None = None

    @classmethod
    def from_codec(cls, codec: ImageCodec) -> CodecPipeline:
        """The pipeline of a codec, whose limits and tiling it keeps."""
        pipe = cls(
            CodecAutoencoder(codec.model),
            None if codec.entropy_model is None else CodecEntropyModel(codec.entropy_model),
            codec.model_number,
        )
        pipe._made_codec = codec
        return pipe

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] = DEFAULT_MODEL, **kwargs: Any
    ) -> CodecPipeline:
        """Load a pipeline's folder, a codec's folder, or a model of the zoo by name.

        Args:
            pretrained_model_name_or_path: Of these; other names are looked for where diffusers looks for pipelines.
            kwargs: diffusers' loading options, for a pipeline; the precision is float32 in any case.

        Raises:
            UnknownModelError: If a codec's folder is damaged.
            OSError: If there is no such pipeline.
        """
        name = os.fspath(pretrained_model_name_or_path)
        if not (Path(name) / "model_index.json").is_file() and (
            zoo.canonical_name(name, "codec") or (Path(name) / "config.json").is_file()
        ):
            return cls.from_codec(ImageCodec.from_pretrained(name))
        pipe: CodecPipeline = super().from_pretrained(name, **kwargs)
        return pipe

    @property
    def codec(self) -> ImageCodec:
        """The codec of the components that the pipeline has now.

        Raises:
            ValueError: If their weights are not float32.
        """
        if not self.autoencoder.is_exact:
            raise ValueError(
                "files depend on the codec's weights, which must be float32: "
                "load the pipeline anew instead of casting it"
            )
        made = self._made_codec
        entropy_model = None if self.entropy_model is None else self.entropy_model.model
        if (
            made is None
            or made.model is not self.autoencoder.model
            or made.entropy_model is not entropy_model
        ):
            number = self.config["model_number"]
            made = self._made_codec = ImageCodec(
                self.autoencoder.model.eval(),
                entropy_model=entropy_model,
                model_number=number,
                model_name=zoo.codec_name(number) or "custom model",
            )
        return made

    def encode(
        self,
        images: Any,
        *,
        keep_metadata: bool = False,
        keep_gps: bool = False,
        **encode_options: Any,
    ) -> list[bytes]:
        """Encode images to the contents of ``.gac`` files, one an image.

        Args:
            images: PIL images, arrays ``[N, H, W, C]``, tensors ``[N, C, H, W]``, single ones or lists of them; uint8 or
                floating point in [0, 1], grey, sRGB, or sRGB and alpha. Sizes may differ. Alpha is kept without loss.
            keep_metadata: Carry date, author, copyright, description and camera of PIL images.
            keep_gps: Carry their GPS position.
            encode_options: Options of :class:`~genaccel.codec.encoder.encode_options.EncodeOptions`, such as ``bits_per_pixel=0.1``.

        Raises:
            TypeError: If it is no image, or an option is unknown.
            ValueError: If a shape or a range is another, or a PIL image is deep or damaged.
            LimitExceededError: If one is larger than the codec's limits allow.
            OptionError: If an option needs an entropy model and there is none.
            TargetSizeError: If an image does not fit the size that the options give.
        """
        options = EncodeOptions(**encode_options)
        loaded = self._loaded(images)
        return self._files(loaded, options, keep_metadata=keep_metadata, keep_gps=keep_gps)

    def _loaded(self, images: Any) -> list[LoadedImage]:
        policy = ReadPolicy(
            max_pixels=self.codec.limits.max_pixels,
            transparency="keep",
            remedies={"depth": "convert it to 8-bit RGB first"},
        )
        return to_loaded(images, policy)

    def _files(
        self,
        images: list[LoadedImage],
        options: EncodeOptions,
        *,
        keep_metadata: bool,
        keep_gps: bool,
    ) -> list[bytes]:
        codec = self.codec
        return [
            codec.encode(
                image.pixels,
                options,
                alpha=image.alpha,
                metadata=kept(
                    read_metadata(image.metadata, []),
                    keep_metadata=keep_metadata,
                    keep_gps=keep_gps,
                ),
            )
            for image in self.progress_bar(images)
        ]

    def decode(
        self,
        files: bytes | Sequence[bytes],
        output_type: str = "pil",
        **decode_options: Any,
    ) -> Any:
        """Decode files to images, with a fourth channel where a file has an alpha plane.

        Args:
            files: Contents of ``.gac`` files.
            output_type: ``"pil"``, whose images have the metadata that a file carries as EXIF and XMP in ``info``; ``"np"``
                (float32 ``[N, H, W, C]`` in [0, 1]) or ``"pt"`` (``[N, C, H, W]``); lists where sizes differ.
            decode_options: Options of :meth:`ImageCodec.decode <genaccel.codec.image_codec.ImageCodec.decode>`, such as
                ``prefix=8``.

        Raises:
            BitstreamError: If a file is damaged.
            UnknownModelError: If another model wrote it.
            LimitExceededError: If an image is larger than the codec's limits allow.
            ValueError: For another ``output_type``.
        """
        check_output_type(output_type)
        codec = self.codec
        listed = [files] if isinstance(files, bytes) else list(files)
        decoded = [codec.decode_file(data, **decode_options) for data in self.progress_bar(listed)]
        images = from_pixels([image.rgba for image in decoded], output_type)
        if output_type == "pil":
            for image, made in zip(images, decoded, strict=True):
                if made.metadata is not None:
                    stored = write_metadata(made.metadata)
                    image.info |= {"exif": b"Exif\0\0" + stored.exif, "xmp": stored.xmp}
        return images

    def __call__(
        self,
        image: Any,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        keep_metadata: bool = False,
        keep_gps: bool = False,
        **encode_options: Any,
    ) -> CodecPipelineOutput | tuple[Any, list[bytes], list[float]]:
        """Encode images and decode them again, to see how they look after the codec and what they cost.

        Args:
            image: As for :meth:`encode`.
            output_type: As for :meth:`decode`.
            return_dict: Off for a plain tuple.
            keep_metadata: As for :meth:`encode`.
            keep_gps: As for :meth:`encode`.
            encode_options: As for :meth:`encode`.

        Raises:
            TypeError: If it is no image.
            ValueError: If a shape, a range or ``output_type`` is another.
            LimitExceededError: If an image is larger than the codec's limits allow.
        """
        check_output_type(output_type)
        options = EncodeOptions(**encode_options)
        loaded = self._loaded(image)
        files = self._files(loaded, options, keep_metadata=keep_metadata, keep_gps=keep_gps)
        output = CodecPipelineOutput(
            images=self.decode(files, output_type),
            files=files,
            bits_per_pixel=[
                8 * len(data) / (each.pixels.shape[0] * each.pixels.shape[1])
                for data, each in zip(files, loaded, strict=True)
            ],
        )
        return output if return_dict else output.to_tuple()
