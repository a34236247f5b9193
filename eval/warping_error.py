# SPDX-License-Identifier: Apache-2.0
"""Temporal warping error of a processed video (E_warp of Lai et al., ECCV 2018, arXiv:1808.00449)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, get_args

import numpy as np
import typer
from numpy.typing import NDArray
from tqdm import tqdm

from genaccel.eval._pairs.summary import summarise
from genaccel.eval._pairs.video_frames import FrameSource
from genaccel.eval.commands import AsJson, Label, exit_if_skipped, print_values, usage_errors
from genaccel.eval.metrics import METRICS
from genaccel.eval.results import record, to_json

FlowName = Literal["tvl1", "ilk"]
Frame = NDArray[np.uint8]
# From the luma [H, W] in [0, 1] of two frames to rows and columns [2, H, W], in pixels:
# first[y, x] shows what second[y + flow[0, y, x], x + flow[1, y, x]] shows.
Flow = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.floating[Any]]]

METRIC = METRICS["warping-error"].metric

# Ruder et al., "Artistic style transfer for videos" (arXiv:1604.08610): factor, offset.
_OCCLUSION = (0.01, 0.5)
_MOTION_BOUNDARY = (0.01, 0.002)


@dataclass(frozen=True, kw_only=True, slots=True)
class WarpingError:
    """Warping error of a video.

    Attributes:
        pairs: Value by pair of frames, ``"0-1"``.
        skipped: Reason by pair of those that have no value.
        used_share: Mean share of the pixels that were compared, over the pairs with a value.
    """

    pairs: dict[str, float]
    skipped: dict[str, str]
    used_share: float

    @property
    def mean(self) -> float:
        """Mean over the pairs that have a value."""
        return fmean(self.pairs.values())


def warping_error(
    frames: Iterable[Frame],
    originals: Iterable[Frame] | None = None,
    *,
    flow: Flow | FlowName = "tvl1",
    max_frames: int | None = None,
    num_frames: int | None = None,
    show_progress: bool | None = None,
) -> WarpingError:
    """Mean squared difference between each frame and the next one, warped back along the motion.

    Values are of pixels in [0, 1], averaged over channels and over the pixels that are visible in both
    frames and not at a motion boundary, as the authors' published code does; the sum over channels in the
    paper's equation is three times as much. Values depend on the flow: compare only those of the same one
    (the paper's is FlowNet2). Pixels that move out of the picture are left out. Two frames of each video are
    in memory at a time.

    Args:
        frames: The processed video: ``[H, W, 3]`` uint8, at least two.
        originals: The video it was made of, where the motion is measured; by default ``frames``, whose
            flicker then spoils the motion too.
        flow: ``"tvl1"`` or ``"ilk"`` (faster, coarser) of scikit-image, or a function from the luma
            ``[H, W]`` in [0, 1] of two frames to ``[2, H, W]``, rows and columns in pixels, from the first
            to the second.
        max_frames: Look at the first so many only.
        num_frames: Their number if it is known, for the progress bar.
        show_progress: A bar on stderr; by default if that is a terminal.

    Raises:
        ImportError: If scikit-image or SciPy is missing.
        TypeError: If a frame is not of type uint8.
        ValueError: If lengths or sizes differ, there are fewer than two frames, or no pair has a pixel that
            can be compared.

    Example:
        >>> frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        >>> warping_error([frame, frame]).mean
        0.0
    """
    if max_frames is not None and max_frames < 2:
        raise ValueError(f"max_frames must be at least 2, got {max_frames}")
    find_flow = _named_flow(flow) if isinstance(flow, str) else flow
    pairs: dict[str, float] = {}
    skipped: dict[str, str] = {}
    shares = []
    previous: Frame | None = None
    luma_before = np.empty(0, np.float32)
    steps = _together(frames, originals, max_frames)
    total = min((n for n in (num_frames, max_frames) if n is not None), default=None)
    progress = tqdm(
        steps,
        desc=METRIC.title,
        total=total,
        unit="frame",
        leave=False,
        disable=None if show_progress is None else not show_progress,
    )
    index = -1
    for index, (frame, original) in enumerate(progress):
        _check_frame(index, frame, original, previous)
        luma = _luma(original)
        if previous is not None:
            forward, backward = (
                _checked_flow(find_flow(a, b), luma.shape)
                for a, b in ((luma_before, luma), (luma, luma_before))
            )
            name = f"{index - 1}-{index}"
            if not (np.isfinite(forward).all() and np.isfinite(backward).all()):
                skipped[name] = "the optical flow is not finite"
            elif not (used := ~occluded(forward, backward)).any():
                skipped[name] = "no pixel is visible in both frames"
            else:
                pairs[name] = _difference(previous, frame, forward, used)
                shares.append(float(used.mean()))
        previous, luma_before = frame, luma
    if index < 1:
        raise ValueError(f"a warping error needs at least two frames, got {index + 1}")
    if not pairs:
        raise ValueError(
            "no pixel of any two frames could be compared: the flow finds only occlusions"
        )
    return WarpingError(pairs=pairs, skipped=skipped, used_share=fmean(shares))


def occluded(
    forward: NDArray[np.floating[Any]], backward: NDArray[np.floating[Any]]
) -> NDArray[np.bool_]:
    """Pixels of the first frame that the second does not show, and pixels at motion boundaries, ``[H, W]``.

    A pixel is left out where the backward flow does not lead back to it, where the flow changes abruptly,
    and where it leaves the picture (Ruder et al., arXiv:1604.08610).

    Args:
        forward: Flow from the first frame to the second ``[2, H, W]``, rows and columns in pixels.
        backward: Flow from the second frame to the first.
    """
    forward = forward.astype(np.float64)
    back, outside = warp(backward, forward)
    squared = np.square(forward).sum(0)
    factor, offset = _OCCLUSION
    lost = np.square(forward + back).sum(0) > factor * (squared + np.square(back).sum(0)) + offset
    rows = np.diff(forward, axis=1, append=forward[:, -1:])
    columns = np.diff(forward, axis=2, append=forward[:, :, -1:])
    factor, offset = _MOTION_BOUNDARY
    boundary = (np.square(rows) + np.square(columns)).sum(0) > factor * squared + offset
    return lost | boundary | outside


def warp(
    image: NDArray[np.generic], flow: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The image at the ends of a flow, by bilinear interpolation.

    Args:
        image: ``[C, H, W]``.
        flow: ``[2, H, W]``, rows and columns in pixels.

    Returns:
        The warped image ``[C, H, W]``, and where the flow leaves the image ``[H, W]``; there the nearest
        pixel is shown.
    """
    from scipy.ndimage import map_coordinates

    height, width = flow.shape[1:]
    places = flow + np.mgrid[:height, :width]  # [2, H, W]
    limits = np.array([height - 1, width - 1])[:, None, None]
    outside = np.asarray(((places < 0) | (places > limits)).any(0))
    warped = [
        map_coordinates(channel.astype(np.float64), places, order=1, mode="nearest")
        for channel in image
    ]
    return np.stack(warped), outside


def _difference(
    first: Frame, second: Frame, forward: NDArray[np.floating[Any]], used: NDArray[np.bool_]
) -> float:
    """Mean squared difference in [0, 1] over the pixels used and the channels."""
    warped, _ = warp(np.moveaxis(second, 2, 0), forward)
    difference = warped - np.moveaxis(first, 2, 0)  # [3, H, W]
    return float(np.mean(np.square(difference[:, used] / 255.0)))


def _together(
    frames: Iterable[Frame], originals: Iterable[Frame] | None, max_frames: int | None
) -> Iterator[tuple[Frame, Frame]]:
    """Frames with the frame where the motion is measured."""
    processed = iter(frames)
    sources = None if originals is None else iter(originals)
    count = 0
    while max_frames is None or count < max_frames:
        frame = next(processed, None)
        source = frame if sources is None else next(sources, None)
        if frame is None and source is None:
            return
        if frame is None or source is None:
            longer, shorter = (
                ("original", "processed") if frame is None else ("processed", "original")
            )
            raise ValueError(
                f"the videos must have the same number of frames, but the {shorter} one has {count} "
                f"and the {longer} one more"
            )
        yield frame, source
        count += 1


def _check_frame(index: int, frame: Frame, original: Frame, previous: Frame | None) -> None:
    for name, image in (("processed", frame), ("original", original)):
        if image.dtype != np.uint8:
            raise TypeError(f"{name} frame {index} must be of type uint8, got {image.dtype}")
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"{name} frame {index} must be [H, W, 3], got {image.shape}")
    if frame.shape != original.shape:
        raise ValueError(
            f"frames must have the same size, but frame {index} has {_size(frame)} pixels in the "
            f"processed video and {_size(original)} in the original"
        )
    if previous is not None and frame.shape != previous.shape:
        raise ValueError(
            f"frames must have the same size, but frame {index} has {_size(frame)} pixels and the one "
            f"before it {_size(previous)}"
        )


def _size(image: Frame) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _luma(image: Frame) -> NDArray[np.float32]:
    """``[H, W, 3]`` to ``[H, W]`` in [0, 1]; Rec. 709."""
    weights = np.array([0.2126, 0.7152, 0.0722], np.float32) / np.float32(255)
    return image.astype(np.float32) @ weights


def _checked_flow(
    flow: NDArray[np.floating[Any]], shape: tuple[int, ...]
) -> NDArray[np.floating[Any]]:
    flow = np.asarray(flow)
    if flow.shape != (2, *shape):
        raise ValueError(f"flow must give {[2, *shape]}, rows and columns, got {list(flow.shape)}")
    return flow


def _named_flow(name: str) -> Flow:
    if name not in get_args(FlowName):
        raise ValueError(f"flow must be one of {', '.join(get_args(FlowName))}, got {name!r}")
    try:
        from skimage import registration
    except ImportError as error:
        raise ImportError(
            "optical flow needs scikit-image: pip install 'genaccel[eval]'"
        ) from error
    found: Flow = getattr(registration, f"optical_flow_{name}")
    return found


Processed = Annotated[Path, typer.Argument(help="Video file, or folder of frames.")]
Original = Annotated[
    Path | None,
    typer.Argument(help="Video or folder it was made of: here the motion is measured."),
]
FlowOption = Annotated[
    FlowName, typer.Option(help="Optical flow of scikit-image; ilk is faster and coarser.")
]
MaxFrames = Annotated[int | None, typer.Option(min=2, help="Look at the first so many only.")]


def main(
    processed: Processed,
    original: Original = None,
    flow: FlowOption = "tvl1",
    max_frames: MaxFrames = None,
    label: Label = "",
    as_json: AsJson = False,
) -> None:
    """Temporal warping error of a video: how much it flickers along the motion of the original.

    Without ORIGINAL the motion is that of the processed video itself.
    """
    with usage_errors(TypeError):
        frames = FrameSource(processed)
        originals = None if original is None else FrameSource(original)
        _check_lengths(frames, originals, max_frames)
        result = warping_error(
            frames,
            originals,
            flow=flow,
            max_frames=max_frames,
            num_frames=None if frames.files is None else len(frames.files),
        )
    summary = summarise(result.pairs.values())
    if as_json:
        content = record(
            "paired",
            label=label,
            settings={
                "flow": flow,
                "flow_of": "processed video" if original is None else "original video",
                "max_frames": max_frames,
                "used_share": result.used_share,
            },
            packages=["scikit-image", "scipy"],
            metric=METRIC.to_dict(),
            **summary.to_dict(),
            images=result.pairs,
            skipped=result.skipped,
        )
        print(to_json(content))
    else:
        print_values(METRIC, result.pairs, summary, of="frames", digits=6)
        source = "processed" if original is None else "original"
        share = f"{result.used_share:.1%} of the pixels compared"
        print(f"{flow} flow of the {source} video; {share}")
    exit_if_skipped(result.skipped)


def _check_lengths(
    frames: FrameSource, originals: FrameSource | None, max_frames: int | None
) -> None:
    """Refuse folders of different lengths before any flow is computed."""
    if originals is None or frames.files is None or originals.files is None or max_frames:
        return
    if len(frames.files) != len(originals.files):
        raise ValueError(
            f"the videos must have the same number of frames, got {len(frames.files)} in "
            f"{frames.path} and {len(originals.files)} in {originals.path}"
        )


if __name__ == "__main__":
    typer.run(main)
