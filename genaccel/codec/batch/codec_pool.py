# SPDX-License-Identifier: Apache-2.0
"""A pool of codecs for a batch of files: each model is loaded once, and chosen by the file or the size asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from genaccel import zoo
from genaccel.codec.carried import Sections
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.encoder.hidden_colours import fill_hidden
from genaccel.codec.encoder.latent_refinement import StepReport
from genaccel.codec.encoder.rate_control import STRAINED_RDO
from genaccel.codec.format.bitstream import CUSTOM_MODEL_NUMBER, Bitstream, model_in_words
from genaccel.codec.format.limits import CodecLimits, timed
from genaccel.codec.format.metadata import PhotoMetadata
from genaccel.codec.image_codec import DEFAULT_MODEL, ImageCodec
from genaccel.errors import TargetSizeError, UnknownModelError

# A file of less than this share of the size that is asked for: a better one would fit.
_MUCH_UNUSED = 0.6


class CodecPool:
    """Loads codecs on first use and keeps them: a batch of files needs each model once.

    Args:
        model: Name or folder to use for every file; by default :meth:`for_file` goes by the file, and
            :meth:`encode` by the size that is asked for.
        device: Where models run.
        limits: Largest images and memory that are accepted.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str | torch.device = "cpu",
        limits: CodecLimits | None = None,
    ) -> None:
        self.limits = limits or CodecLimits.of_this_machine()
        self._model = model
        self._device = device
        self._codecs: dict[str, ImageCodec] = {}

    def _load(self, name: str) -> ImageCodec:
        if name not in self._codecs:
            self._codecs[name] = ImageCodec.from_pretrained(name, self._device, limits=self.limits)
        return self._codecs[name]

    def for_encoding(self) -> ImageCodec:
        """The chosen model, or the default one.

        Raises:
            UnknownModelError: If it cannot be loaded.
        """
        return self._load(self._model or DEFAULT_MODEL)

    @timed
    def encode(
        self,
        image: NDArray[np.uint8],
        options: EncodeOptions,
        *,
        alpha: NDArray[np.uint8] | None = None,
        metadata: PhotoMetadata | None = None,
        on_step: StepReport | None = None,
    ) -> tuple[bytes, ImageCodec]:
        """Compress an image with the chosen model; if none is and a size is asked for, with the one that suits it.

        That is the model of the highest rate that gets there by rate-distortion optimised quantisation, with a larger
        weight where the next model would leave much of the size unused; if none does, the same at half size; if that
        does not either, the model of the lowest rate, with slices left out if need be.

        Args:
            image: uint8 ``[H, W, 3]``, sRGB.
            options: Rate control.
            alpha: As for :meth:`ImageCodec.encode`.
            metadata: As for that.
            on_step: As for that.

        Returns:
            The file, and the codec that made it.

        Raises:
            UnknownModelError: If a model cannot be loaded.
            As :meth:`ImageCodec.encode`.
        """
        max_bytes = options.max_bytes(image.shape[0] * image.shape[1])
        if self._model is None and max_bytes is not None:
            sizes = (False, True) if options.half_size is None else (options.half_size,)
            candidates = [(name, half) for half in sizes for name in zoo.codecs_by_rate()]
            sections = Sections.of(image, alpha, metadata)
            shown = image if alpha is None else fill_hidden(image, alpha)
            for (name, half), following in pairwise(candidates):
                codec, own = self._load(name), replace(options, half_size=half)
                left = max_bytes - sections.num_bytes
                for bound in self._bounds(name, following, shown, left):
                    with suppress(TargetSizeError):
                        data = codec.encode_within(
                            shown,
                            own,
                            sections=sections,
                            largest_rdo=bound,
                            may_cut=False,
                            on_step=on_step,
                        )
                        return data, codec
            name, half = candidates[-1]
            codec, options = self._load(name), replace(options, half_size=half)
        else:
            codec = self.for_encoding()
        data = codec.encode(image, options, alpha=alpha, metadata=metadata, on_step=on_step)
        return data, codec

    def _bounds(
        self, name: str, following: tuple[str, bool], image: NDArray[np.uint8], max_bytes: int
    ) -> Iterator[float]:
        """Weights of the rate up to which to force a model, before the following one (name, at half size) is tried.

        The second only if the first did not get there: what the following one makes of the image is a pass of its own.
        """
        yield zoo.fair_rdo(name)
        next_name, half_size = following
        made = self._load(next_name).encode(image, EncodeOptions(half_size=half_size))
        if len(made) < _MUCH_UNUSED * max_bytes:
            yield STRAINED_RDO

    def for_file(self, data: bytes, *, truncated: bool = False) -> ImageCodec:
        """The chosen model, or the one that a ``.gac`` file names.

        Args:
            data: The file.
            truncated: Whether it may have lost its end.

        Raises:
            BitstreamError: If the file is damaged, truncated, of another version, or no ``.gac`` file.
            LimitExceededError: If the image has more pixels than the limits allow.
            UnknownModelError: If the model is not at hand.
        """
        stream = Bitstream.from_bytes(data, self.limits.max_pixels, truncated=truncated)
        name = self._model or zoo.codec_name(stream.model_number)
        if name is None:
            remedy = (
                "give its folder (--model FOLDER)"
                if stream.model_number == CUSTOM_MODEL_NUMBER
                else "a newer genaccel may have it, or give its folder (--model FOLDER)"
            )
            raise UnknownModelError(
                f"file needs {model_in_words(stream)}, which is not at hand: {remedy}"
            )
        return self._load(name)
