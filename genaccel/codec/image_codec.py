# SPDX-License-Identifier: Apache-2.0
"""The image codec: photographs to bytes and back, with a trained autoencoder."""

from __future__ import annotations

import hashlib
import os
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaccel import zoo
from genaccel.codec.carried import DecodedImage, Sections, alpha_of, check_pixels, metadata_of
from genaccel.codec.coding.entropy_index_coder import DecodedPrefix, EntropyIndexCoder, IndexMaps
from genaccel.codec.coding.index_coder import IndexCoder
from genaccel.codec.coding.missing_slices import DEFAULT_SEED
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.encoder.hidden_colours import fill_hidden
from genaccel.codec.encoder.latent_refinement import LatentRefiner, StepReport, refinement_bytes
from genaccel.codec.encoder.rate_control import LARGEST_RDO, LEAST_REFINE_RDO, largest_within
from genaccel.codec.encoder.rate_distortion_quantizer import ChosenIndices, choose_indices
from genaccel.codec.format.bitstream import (
    CUSTOM_MODEL_NUMBER,
    DIGEST_BYTES,
    ENTROPY_VERSION,
    STATIC_VERSION,
    Bitstream,
    BitstreamInfo,
    describe,
    half_sides,
    model_in_words,
)
from genaccel.codec.format.half_size import RESIZING_BYTES_PER_PIXEL, halved, resized
from genaccel.codec.format.limits import CodecLimits, timed
from genaccel.codec.format.metadata import PhotoMetadata
from genaccel.codec.memory_estimate import MemoryEstimate
from genaccel.codec.tiling import Tiling, decode_tiles, encode_tiles, feature_tiles
from genaccel.errors import (
    BitstreamError,
    LimitExceededError,
    OptionError,
    UnknownModelError,
)
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.integer_entropy_model import IntegerEntropyModel
from genaccel.models.registry import network_in

DEFAULT_MODEL = "photo-codec-high"
INTEGER_ENTROPY_FOLDER = "entropy-int8"  # inside a model folder


class ImageCodec:
    """Encodes and decodes images with one model.

    The indices in a file are recovered exactly on any machine; the pixels that the decoder network makes of
    them may differ in the last bit between machines.

    Args:
        model: In evaluation mode, on the device to use.
        entropy_model: On the same device; without one, indices are coded with the model's static tables.
        model_number: The model's number in the zoo; 0 for one outside it.
        model_name: Name of the model, for messages.
        limits: Largest images and memory that are accepted.
        tiling: How large images are cut; by default as the format says.

    Example:
        >>> import numpy as np
        >>> from genaccel.codec import ImageCodec
        >>> codec = ImageCodec.from_pretrained("photo-codec-high")
        >>> data = codec.encode(np.full((427, 640, 3), 128, np.uint8))
        >>> codec.decode(data).shape
        (427, 640, 3)
    """

    def __init__(
        self,
        model: Autoencoder,
        *,
        entropy_model: IntegerEntropyModel | None = None,
        model_number: int = CUSTOM_MODEL_NUMBER,
        model_name: str = "custom model",
        limits: CodecLimits | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        self.model = model
        self.entropy_model = entropy_model
        self.model_name = model_name
        self.model_number = model_number
        self.limits = limits or CodecLimits.of_this_machine()
        self.tiling = tiling or Tiling.default(model.params)
        self._index_coder = IndexCoder(model.index_cdfs.cpu().numpy())
        digest = model.digest()
        self._digests = {STATIC_VERSION: digest[:DIGEST_BYTES]}
        self._entropy_coder: EntropyIndexCoder | None = None
        self._refiner: LatentRefiner | None = None  # loads a metric of 59 MB on first use
        if entropy_model is not None:
            self._entropy_coder = EntropyIndexCoder(entropy_model)
            both = hashlib.sha256(digest + bytes.fromhex(entropy_model.digest())).digest()
            self._digests[ENTROPY_VERSION] = both[:DIGEST_BYTES]
        # Here and not on first use: it also warms the network up, which is no part of coding time.
        self._memory = MemoryEstimate(model, entropy_model, self.tiling)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] = DEFAULT_MODEL,
        device: str | torch.device = "cpu",
        *,
        limits: CodecLimits | None = None,
        tiling: Tiling | None = None,
    ) -> ImageCodec:
        """Load a model of the zoo by name, or of a folder.

        A folder is what ``Autoencoder.save_pretrained`` wrote, and may hold a folder ``entropy-int8`` that
        ``IntegerEntropyModel.save_pretrained`` wrote: ``genaccel train export`` makes both.

        Raises:
            UnknownModelError: If there is no such model, or its files are missing, damaged or of different models.
        """
        found = zoo.resolve(name_or_folder, "codec")
        try:
            model = Autoencoder.from_pretrained(found.folder)
            entropy_model = None
            entropy_folder = network_in(found.folder, INTEGER_ENTROPY_FOLDER)
            if entropy_folder is not None:
                entropy_model = IntegerEntropyModel.from_pretrained(entropy_folder).to(device)
                _require_same_indices(model, entropy_model)
        except (OSError, ValueError) as error:
            raise UnknownModelError(f"model {found.name!r} cannot be loaded: {error}") from error
        return cls(
            model.to(device),
            entropy_model=entropy_model,
            model_number=found.codec_number,
            model_name=found.name,
            limits=limits,
            tiling=tiling,
        )

    def _padded(self, length: int) -> int:
        alignment = self.model.params.alignment
        return -(-length // alignment) * alignment

    def estimate_memory_bytes(
        self, height: int, width: int, *, half_size: bool = False, encoding: bool = False
    ) -> int:
        """Working memory for decoding or encoding an image of this size, model weights apart."""
        resizing = RESIZING_BYTES_PER_PIXEL * height * width if half_size else 0
        coded = half_sides(height, width) if half_size else (height, width)
        estimate = self._memory.encoding_bytes if encoding else self._memory.decoding_bytes
        return resizing + estimate(*map(self._padded, coded))

    def _check_limits(
        self, height: int, width: int, half_size: bool, *, encoding: bool = False
    ) -> None:
        if height * width > self.limits.max_pixels:
            raise LimitExceededError(
                f"image of {width}x{height} pixels exceeds the limit of {self.limits.max_pixels} pixels"
            )
        needed = self.estimate_memory_bytes(height, width, half_size=half_size, encoding=encoding)
        if needed > self.limits.max_memory_bytes:
            raise LimitExceededError(
                f"image of {width}x{height} pixels needs about {needed / 2**20:.0f} MiB, "
                f"the limit is {self.limits.memory_in_words}"
            )

    def _map_shapes(self, height: int, width: int) -> list[tuple[int, int]]:
        return [
            (self._padded(height) // s, self._padded(width) // s) for s in self.model.params.strides
        ]

    def _check_image(self, image: NDArray[np.uint8], half_size: bool | None) -> None:
        check_pixels(image, "image", (3,))
        self._check_limits(image.shape[0], image.shape[1], bool(half_size), encoding=True)

    def _coded_image(self, image: NDArray[np.uint8], half_size: bool | None) -> NDArray[np.uint8]:
        """The picture that is coded, uint8 ``[h, w, 3]``, halved if asked; raises if it is none or too large."""
        self._check_image(image, half_size)
        return halved(image) if half_size else image

    def _padded_image(self, image: NDArray[np.uint8]) -> Tensor:
        height, width = image.shape[:2]
        below, right = self._padded(height) - height, self._padded(width) - width
        padded = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
        return torch.from_numpy(padded)

    def _require_entropy_coder(self, what: str) -> EntropyIndexCoder:
        if self._entropy_coder is None:
            raise OptionError(
                f"{what} needs an entropy model, and {self.model_name!r} has none: "
                "take another model, or train one (genaccel train entropy)"
            )
        return self._entropy_coder

    @timed
    @torch.inference_mode()
    def encode_indices(self, image: NDArray[np.uint8], rdo: float = 0.0) -> IndexMaps:
        """Index maps of an image, coarse to fine, ``[ceil(H/a)*a/s, ceil(W/a)*a/s]`` for stride s, alignment a.

        Args:
            image: uint8 ``[H, W, 3]``, sRGB.
            rdo: As in :class:`EncodeOptions`.

        Raises:
            TypeError, ValueError: If the image is not uint8, has another shape, or no pixels.
            OptionError: If ``rdo`` is not 0 and there is no entropy model to weigh bits.
            LimitExceededError: If it is larger than the limits allow, or takes longer (TimeLimitError).
        """
        padded = self._padded_image(self._coded_image(image, half_size=False))
        if not rdo:
            maps = encode_tiles(self.model, padded, self.tiling)
            return [index_map.numpy() for index_map in maps]
        coder = self._require_entropy_coder("rdo")
        features = feature_tiles(self.model, padded, self.tiling)
        return choose_indices(coder, features, self.model.quantize.codebook, rdo).index_maps

    def _refined(
        self,
        padded: Tensor,
        coded: NDArray[np.uint8],
        features: list[Tensor],
        rdo: float,
        steps: int,
        on_step: StepReport | None,
    ) -> list[Tensor]:
        """Features after some steps of gradient descent, ``[C, H/s, W/s]`` per stride s, coarse to fine."""
        needed = refinement_bytes(*padded.shape[:2])
        if needed > self.limits.max_memory_bytes:
            raise LimitExceededError(
                f"refine needs about {needed / 2**20:.0f} MiB, "
                f"the limit is {self.limits.memory_in_words}: encode without it"
            )
        if self._refiner is None:
            self._refiner = LatentRefiner(self.model, self._require_entropy_coder("refine"))
        height, width = coded.shape[:2]
        return self._refiner.refine(padded, (height, width), features, rdo, steps, on_step)

    def _file(
        self,
        image: NDArray[np.uint8],
        indices: IndexMaps | ChosenIndices,
        num_slices: int | None,
        version: int,
        half_size: bool | None,
        sections: Sections = Sections(),  # noqa: B008 - frozen
    ) -> bytes:
        if version == STATIC_VERSION:
            assert not isinstance(indices, ChosenIndices)
            payload = self._index_coder.encode(indices)
        else:
            coder = self._require_entropy_coder("num_slices")
            if num_slices == coder.num_slices:
                num_slices = None
            if isinstance(indices, ChosenIndices):
                payload = coder.encode_tables(indices.tables, num_slices)
            else:
                payload = coder.encode(indices, num_slices)
        return Bitstream(
            width=image.shape[1],
            height=image.shape[0],
            model_number=self.model_number,
            model_digest=self._digests[version],
            payload=payload,
            version=version,
            num_slices=num_slices,
            half_size=bool(half_size),
            alpha=sections.alpha,
            metadata=sections.metadata,
        ).to_bytes()

    def _decodable(self, data: bytes) -> bytes:
        """The file, if it is not so small that decoders refuse it."""
        stream = Bitstream.from_bytes(data, self.limits.max_pixels)
        self.limits.check_paid(stream.coded_sides, len(stream.payload))
        return data

    @timed
    @torch.inference_mode()
    def encode(
        self,
        image: NDArray[np.uint8],
        options: EncodeOptions = EncodeOptions(),  # noqa: B008 - frozen
        *,
        alpha: NDArray[np.uint8] | None = None,
        metadata: PhotoMetadata | None = None,
        on_step: StepReport | None = None,
    ) -> bytes:
        """Compress an image to the contents of a ``.gac`` file.

        Args:
            image: uint8 ``[H, W, 3]``, sRGB, sides up to 65,535.
            options: Rate control.
            alpha: uint8 ``[H, W]``, 255 is opaque. It is kept without loss, and colours where it is 0 are not.
            metadata: To carry in the file.
            on_step: Of refinement: called with the steps that are done, and how many there are.

        Raises:
            TypeError: If the image or alpha is not uint8.
            ValueError: If one has another shape, no pixels, or a longer side; or the metadata has more than 16 KiB.
            OptionError: If an option needs an entropy model and there is none, or a metric that is not installed.
            LimitExceededError: If it is larger than the limits allow, or takes longer (TimeLimitError).
            TargetSizeError: If it does not fit the size that the options give.
        """
        self._check_image(image, options.half_size)
        sections = Sections.of(image, alpha, metadata)
        if alpha is not None:
            image = fill_hidden(image, alpha)
        if options.has_target:
            return self.encode_within(image, options, sections=sections, on_step=on_step)
        static = options.static_tables or self._entropy_coder is None
        if static and options.num_slices is not None:
            self._require_entropy_coder("num_slices")
        indices: IndexMaps | ChosenIndices
        if options.refine or options.rdo:
            coder = self._require_entropy_coder("refine" if options.refine else "rdo")
            coded, rdo = self._coded_image(image, options.half_size), options.rdo
            padded = self._padded_image(coded)
            features = feature_tiles(self.model, padded, self.tiling)
            if options.refine:
                rdo = max(rdo, LEAST_REFINE_RDO)
                features = self._refined(padded, coded, features, rdo, options.refine, on_step)
            indices = choose_indices(coder, features, self.model.quantize.codebook, rdo)
        else:
            indices = self.encode_indices(self._coded_image(image, options.half_size))
        version = STATIC_VERSION if static else ENTROPY_VERSION
        return self._decodable(
            self._file(image, indices, options.num_slices, version, options.half_size, sections)
        )

    @timed
    @torch.inference_mode()
    def encode_within(
        self,
        image: NDArray[np.uint8],
        options: EncodeOptions,
        *,
        sections: Sections = Sections(),  # noqa: B008 - frozen
        largest_rdo: float = LARGEST_RDO,
        may_cut: bool = True,
        on_step: StepReport | None = None,
    ) -> bytes:
        """Compress an image to a given size at most: the best file that fits.

        Args:
            image: uint8 ``[H, W, 3]``, sRGB.
            options: With a target size.
            sections: What else the file holds, within that size.
            largest_rdo: Largest weight of the rate to try.
            may_cut: Whether slices may be left out where that is not enough.
            on_step: As for :meth:`encode`.

        Raises:
            As :meth:`encode`.
        """
        coder = self._require_entropy_coder("a target size")
        coded = self._coded_image(image, options.half_size)
        padded = self._padded_image(coded)
        max_bytes = options.max_bytes(image.shape[0] * image.shape[1])
        if max_bytes is None:
            raise ValueError("options must have bits_per_pixel or target_bytes")
        codebook = self.model.quantize.codebook
        features = feature_tiles(self.model, padded, self.tiling)
        chosen: dict[float, ChosenIndices] = {}

        def make(rdo: float, num_slices: int | None) -> bytes:
            if rdo not in chosen:
                chosen.clear()
                chosen[rdo] = choose_indices(coder, features, codebook, rdo)
            return self._file(
                image, chosen[rdo], num_slices, ENTROPY_VERSION, options.half_size, sections
            )

        within = partial(
            largest_within,
            make,
            max_bytes,
            num_slices=coder.num_slices,
            carried_bytes=sections.num_bytes,
        )
        fit = within(largest_rdo=largest_rdo, may_cut=may_cut)
        if not options.refine:
            return self._decodable(fit.data)
        rdo = max(fit.rdo, LEAST_REFINE_RDO)
        features = self._refined(padded, coded, features, rdo, options.refine, on_step)
        chosen.clear()
        # Refined for one price of a bit, features are good near it only.
        return self._decodable(within(least_rdo=0.7 * rdo).data)

    def _parse(
        self, data: bytes, prefix: int | None, truncated: bool, seed: int | None
    ) -> tuple[Bitstream, DecodedPrefix]:
        stream = Bitstream.from_bytes(data, self.limits.max_pixels, truncated=truncated)
        if stream.model_digest != self._digests.get(stream.version):
            here = self._digests.get(stream.version)
            has = "no entropy model" if here is None else f"digest {here.hex()}"
            raise UnknownModelError(
                f"file needs {model_in_words(stream)}, but {self.model_name!r} here has {has}: "
                "give the model that wrote the file (--model), "
                "or install the genaccel version that wrote it"
            )
        self._check_limits(stream.height, stream.width, stream.half_size)
        shapes = self._map_shapes(*stream.coded_sides)
        check_paid = partial(self.limits.check_paid, stream.coded_sides, len(stream.payload))
        if stream.version == STATIC_VERSION:
            if prefix is not None:
                raise OptionError(
                    "prefix must be None: a file coded with static tables has no slices"
                )
            index_maps = self._index_coder.decode(stream.payload, shapes)
            check_paid()
            return stream, DecodedPrefix(index_maps, 0, [])
        coder = self._require_entropy_coder("the file")
        if stream.num_slices is not None and stream.num_slices >= coder.num_slices:
            raise BitstreamError(
                f"file says that it has {stream.num_slices} of {coder.num_slices} slices"
            )
        return stream, coder.decode_prefix(
            stream.payload,
            shapes,
            num_slices=stream.num_slices,
            use=prefix,
            truncated=truncated,
            seed=seed,
            on_first_slice=check_paid,
        )

    @timed
    @torch.inference_mode()
    def decode_indices(
        self,
        data: bytes,
        *,
        prefix: int | None = None,
        truncated: bool = False,
        seed: int | None = DEFAULT_SEED,
    ) -> IndexMaps:
        """Index maps of a file, equal to those that were encoded, on any machine; arguments as for :meth:`decode`."""
        return self._parse(data, prefix, truncated, seed)[1].index_maps

    @timed
    def slice_ends(self, data: bytes) -> list[int]:
        """Lengths in bytes at which the file may be cut: ``data[:slice_ends(data)[n - 1]]`` has its first n slices.

        Raises:
            As :meth:`decode`, and OptionError for a file that static tables coded.
        """
        stream, decoded = self._parse(data, None, False, DEFAULT_SEED)
        if stream.version == STATIC_VERSION:
            raise OptionError("a file coded with static tables has no slices")
        return [stream.header_bytes + end for end in decoded.slice_ends]

    @timed
    @torch.inference_mode()
    def decode(
        self,
        data: bytes,
        *,
        prefix: int | None = None,
        truncated: bool = False,
        seed: int | None = DEFAULT_SEED,
    ) -> NDArray[np.uint8]:
        """Image ``[H, W, 3]`` of the contents of a ``.gac`` file.

        Args:
            data: The file.
            prefix: Use only so many slices, coarse to fine, of those that the file has.
            truncated: The file may have lost its end: use the slices that are there. Damage is then not noticed.
            seed: Seed of the indices that are made up where slices are missing, the same on every machine; None
                takes the most likely ones.

        Raises:
            BitstreamError: If the file is damaged, truncated, of another version, or no ``.gac`` file.
            UnknownModelError: If another model wrote it.
            LimitExceededError: If the image is larger than the limits allow, or takes longer (TimeLimitError).
            OptionError: If there are not so many slices, or the file has none.
        """
        stream, decoded = self._parse(data, prefix, truncated, seed)
        height, width = stream.coded_sides
        image = np.empty((height, width, 3), np.uint8)
        top = 0
        maps = [torch.from_numpy(index_map) for index_map in decoded.index_maps]
        for band in decode_tiles(self.model, maps, self.tiling):
            rows = min(band.shape[1], height - top)
            visible = band[:, :rows, :width].add_(1).mul_(127.5).round_().clamp_(0, 255)
            image[top : top + rows] = visible.to(torch.uint8).permute(1, 2, 0).numpy()
            top += rows
            del band, visible  # or they would live on beside the next band
        return resized(image, stream.height, stream.width) if stream.half_size else image

    def decode_file(
        self,
        data: bytes,
        *,
        prefix: int | None = None,
        truncated: bool = False,
        seed: int | None = DEFAULT_SEED,
    ) -> DecodedImage:
        """All that a ``.gac`` file holds: image, alpha plane and metadata; arguments and errors as for :meth:`decode`."""
        stream = Bitstream.from_bytes(data, self.limits.max_pixels, truncated=truncated)
        metadata = metadata_of(stream)
        # First the payload, without which a plane of any size could be asked for.
        pixels = self.decode(data, prefix=prefix, truncated=truncated, seed=seed)
        return DecodedImage(pixels=pixels, alpha=alpha_of(stream), metadata=metadata)

    def info(self, data: bytes) -> BitstreamInfo:
        """Header of a ``.gac`` file: size, model, rate; nothing is decoded. Errors are those of :func:`describe`."""
        return describe(data, self.limits.max_pixels)


def _require_same_indices(model: Autoencoder, entropy_model: IntegerEntropyModel) -> None:
    """Raise ValueError if an entropy model codes other indices than the autoencoder makes."""
    params, entropy = model.params, entropy_model.params.entropy
    if (entropy.codebook_size, entropy.num_scales) != (params.codebook_size, len(params.strides)):
        raise ValueError(
            f"its {INTEGER_ENTROPY_FOLDER} is another model's: it codes {entropy.num_scales} scales of "
            f"{entropy.codebook_size} code words"
        )
