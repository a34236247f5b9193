# SPDX-License-Identifier: Apache-2.0
import json
import sys
import weakref
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from genaccel.eval._pairs.video_frames import FrameSource, natural_key
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.warping_error import FlowName, main, occluded, warp, warping_error

pytest.importorskip("skimage", reason="scikit-image is not installed")

Frame = NDArray[np.uint8]
FLOWS: tuple[FlowName, ...] = ("tvl1", "ilk")
HEIGHT, WIDTH = 56, 72


@pytest.fixture(scope="module")
def photograph() -> Frame:
    picture: Frame = held_out_photographs()["chelsea"]
    return picture


def _moving(photograph: Frame, count: int, step: int) -> list[Frame]:
    """A camera that moves to the right: what is at x + step in one frame is at x in the next."""
    return [
        photograph[80 : 80 + HEIGHT, 110 + i * step : 110 + i * step + WIDTH] for i in range(count)
    ]


def _noisy(frames: Sequence[Frame], deviation: float = 10.0) -> list[Frame]:
    random = np.random.default_rng(0)
    return [
        (f + random.normal(0, deviation, f.shape)).round().clip(0, 255).astype(np.uint8)
        for f in frames
    ]


def _constant_flow(rows: float, columns: float) -> NDArray[np.float64]:
    flow = np.empty((2, HEIGHT, WIDTH))
    flow[0], flow[1] = rows, columns
    return flow


@pytest.mark.parametrize("flow", FLOWS)
def test_a_video_that_stands_still_has_no_error(photograph: Frame, flow: FlowName) -> None:
    result = warping_error(_moving(photograph, 3, 0), flow=flow)
    assert result.pairs == {"0-1": 0.0, "1-2": 0.0}
    assert result.mean == 0.0
    assert result.used_share == 1.0
    assert result.skipped == {}


@pytest.mark.parametrize("flow", FLOWS)
def test_motion_costs_little_and_flicker_much(photograph: Frame, flow: FlowName) -> None:
    originals = _moving(photograph, 3, 2)
    steady = warping_error(originals, flow=flow)
    unwarped = np.mean(np.square((originals[0].astype(float) - originals[1]) / 255))
    assert steady.mean < 1e-4 < unwarped / 10
    # Two columns of the frame move out of the picture.
    assert 0.8 < steady.used_share < 1 - 2 / WIDTH

    flickering = warping_error(_noisy(originals), originals, flow=flow)
    # The difference of two independent errors; interpolation between pixels takes some away.
    assert flickering.mean == pytest.approx(2 * (10 / 255) ** 2, rel=0.15)
    assert flickering.used_share == steady.used_share  # it is that of the originals' motion


def test_known_motion_gives_exact_values(photograph: Frame) -> None:
    originals = _moving(photograph, 2, 3)
    to_the_left = iter([_constant_flow(0, -3), _constant_flow(0, 3)])
    exact = warping_error(originals, flow=lambda a, b: next(to_the_left))
    assert exact.mean == 0.0
    assert exact.used_share == (WIDTH - 3) / WIDTH

    brighter = [np.full((HEIGHT, WIDTH, 3), value, np.uint8) for value in (100, 151)]
    still = _constant_flow(0, 0)
    result = warping_error(brighter, flow=lambda a, b: still)
    assert result.mean == pytest.approx(0.04)  # (51 / 255)^2
    brighter[1][..., :2] = 100
    assert warping_error(brighter, flow=lambda a, b: still).mean == pytest.approx(0.04 / 3)


def test_the_flow_is_found_on_the_originals() -> None:
    seen: list[float] = []

    def flow(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
        seen.extend([float(a[0, 0]), float(b[0, 0])])
        return _constant_flow(0, 0)

    white = [np.full((HEIGHT, WIDTH, 3), 255, np.uint8)] * 2
    black = [np.zeros_like(white[0])] * 2
    warping_error(white, black, flow=flow)
    assert seen == [0.0] * 4
    seen.clear()
    warping_error(white, flow=flow)
    assert seen == pytest.approx([1.0] * 4)


def _square_flow(left: int, move: int) -> NDArray[np.float64]:
    """A square of 16 pixels that moves sideways over a background that stands still."""
    flow = np.zeros((2, HEIGHT, WIDTH))
    flow[1, 20:36, left : left + 16] = move
    return flow


def test_what_a_moving_square_covers_is_left_out() -> None:
    hidden = occluded(_square_flow(24, 6), _square_flow(30, -6))
    assert hidden[22:34, 41:45].all()  # background that the square covers next
    assert not hidden[22:34, 27:37].any()  # the square itself
    assert not hidden[:18].any()
    assert not hidden[38:].any()
    # Background that the square uncovers is seen in the second frame only: nothing of the first is lost.
    assert not hidden[22:34, :22].any()
    # The edges of the square are motion boundaries: 0 next to 6.
    assert hidden[20:36, 23].all()
    assert hidden[20:36, 39].all()
    assert hidden[19, 24:40].all()
    assert hidden[35, 24:40].all()


def test_the_covered_background_does_not_count(photograph: Frame) -> None:
    background, square = photograph[80 : 80 + HEIGHT, 110 : 110 + WIDTH], photograph[200:216, 40:56]
    frames = []
    for left in (24, 30):
        frame = background.copy()
        frame[20:36, left : left + 16] = 255 - square
        frames.append(frame)
    flows = iter([_square_flow(24, 6), _square_flow(30, -6)])
    assert warping_error(frames, flow=lambda a, b: next(flows)).mean == 0.0
    # Without the check of the way back it does count.
    naive, _ = warp(np.moveaxis(frames[1], 2, 0), _square_flow(24, 6))
    assert np.mean(np.square((naive - np.moveaxis(frames[0], 2, 0)) / 255)) > 1e-3


def test_thresholds_are_those_of_the_paper() -> None:
    for error, lost in ((0.70, False), (0.72, True)):  # 0.5 = 0.707^2 at rest
        hidden = occluded(_constant_flow(0, 0), _constant_flow(0, error))
        assert hidden.all() == hidden.any() == lost
    # At 10 pixels there and 9 or 8.3 back: 0.01 (100 + 81) + 0.5 = 1.52^2.
    for back, lost in ((-9.0, False), (-8.3, True)):
        assert occluded(_constant_flow(0, 10), _constant_flow(0, back))[30, 30] == lost
    for step, lost in ((0.044, False), (0.046, True)):  # 0.002 = 0.0447^2 at rest
        flow = _constant_flow(0, 0)
        flow[0, 30:] = step
        assert occluded(flow, -flow)[29, 30] == lost


def test_warping_reads_between_pixels() -> None:
    ramp = np.add.outer(10.0 * np.arange(HEIGHT), np.arange(WIDTH))[None]
    warped, outside = warp(ramp, _constant_flow(0.5, -2.25))
    expected = ramp + 0.5 * 10 - 2.25
    np.testing.assert_allclose(warped[:, :-1, 3:], expected[:, :-1, 3:])
    assert outside[-1].all()
    assert outside[:, :3].all()
    assert not outside[:-1, 3:].any()


def test_values_repeat(photograph: Frame) -> None:
    originals = _moving(photograph, 3, 2)
    frames = _noisy(originals)
    assert warping_error(frames, originals) == warping_error(iter(frames), iter(originals))


def test_two_frames_of_a_long_video_are_read_at_a_time(photograph: Frame) -> None:
    made: list[weakref.ref[Frame]] = []
    most = 0

    def frames() -> Iterator[Frame]:
        nonlocal most
        for frame in _moving(photograph, 8, 1):
            made.append(weakref.ref(copy := frame.copy()))
            most = max(most, sum(reference() is not None for reference in made))
            yield copy

    still = _constant_flow(0, 0)
    result = warping_error(frames(), flow=lambda a, b: still)
    assert len(result.pairs) == 7
    assert most <= 3  # the third is being made while the first is still there


def test_pairs_that_show_nothing_in_common_are_named(photograph: Frame) -> None:
    still, away = _constant_flow(0, 0), _constant_flow(0, 2 * WIDTH)
    flows = iter([still, still, away, away])
    result = warping_error(_moving(photograph, 3, 0), flow=lambda a, b: next(flows))
    assert result.pairs == {"0-1": 0.0}
    assert result.skipped == {"1-2": "no pixel is visible in both frames"}
    with pytest.raises(ValueError, match="no pixel of any two frames could be compared"):
        warping_error(_moving(photograph, 3, 0), flow=lambda a, b: away)


def test_max_frames(photograph: Frame) -> None:
    frames = _moving(photograph, 4, 0)
    still = _constant_flow(0, 0)
    assert set(warping_error(frames, flow=lambda a, b: still, max_frames=3).pairs) == {"0-1", "1-2"}
    # The rest is not looked at.
    assert warping_error(frames, frames[:2], flow=lambda a, b: still, max_frames=2).mean == 0.0
    with pytest.raises(ValueError, match="max_frames must be at least 2, got 1"):
        warping_error(frames, max_frames=1)


def test_frames_are_checked(photograph: Frame) -> None:
    a, b = _moving(photograph, 2, 0)
    with pytest.raises(ValueError, match="at least two frames, got 1"):
        warping_error([a])
    with pytest.raises(ValueError, match="at least two frames, got 0"):
        warping_error([])
    with pytest.raises(ValueError, match="the processed one has 2 and the original one more"):
        warping_error([a, b], [a, b, b], flow="ilk")
    with pytest.raises(ValueError, match="the original one has 1 and the processed one more"):
        warping_error([a, b], [a])
    with pytest.raises(ValueError, match="frame 1 has 70x56 pixels and the one before it 72x56"):
        warping_error([a, b[:, 2:]])
    with pytest.raises(
        ValueError,
        match="frame 0 has 72x56 pixels in the processed video and 72x50 in the original",
    ):
        warping_error([a, b], [a[:50], b[:50]])
    with pytest.raises(TypeError, match="processed frame 0 must be of type uint8, got float64"):
        warping_error([a / 255, b / 255])
    with pytest.raises(ValueError, match=r"frame 0 must be \[H, W, 3\], got \(56, 72\)"):
        warping_error([a[..., 0], b[..., 0]])
    with pytest.raises(ValueError, match="flow must be one of tvl1, ilk, got 'raft'"):
        warping_error([a, b], flow="raft")
    with pytest.raises(ValueError, match=r"flow must give \[2, 56, 72\].* got \[56, 72\]"):
        warping_error([a, b], flow=lambda x, y: x)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("size", [(2, 2), (9, 40)])
def test_small_pictures(flow: FlowName, size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert warping_error([frame, frame], flow=flow).mean == 0.0


def test_numbers_in_names_are_sorted_by_value() -> None:
    names = ["a10.png", "a9.png", "a1/2.png", "a01.png", "a1.png", "b.png", "3.png"]
    assert sorted(names, key=natural_key) == [
        "3.png",
        "a01.png",
        "a1.png",
        "a1/2.png",
        "a9.png",
        "a10.png",
        "b.png",
    ]


def _save(folder: Path, frames: Sequence[Frame]) -> Path:
    folder.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame-{index + 8}.png")
    return folder


def _encode(path: Path, frames: Sequence[Frame]) -> Path:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def _run(*arguments: object) -> SimpleNamespace:
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    message = " ".join(result.stderr.replace("│", " ").split())
    return SimpleNamespace(code=result.exit_code, out=result.stdout, error=message)


def test_folders_and_videos_give_the_same_frames(photograph: Frame, tmp_path: Path) -> None:
    frames = _moving(photograph, 4, 2)  # frame-8 to frame-11: the natural order is not that of text
    for source in (_save(tmp_path / "frames", frames), _encode(tmp_path / "video.mkv", frames)):
        for _ in range(2):
            np.testing.assert_array_equal(list(FrameSource(source)), frames)


def test_the_command(photograph: Frame, tmp_path: Path) -> None:
    originals = _moving(photograph, 3, 2)
    noisy = _noisy(originals)
    processed, original = _save(tmp_path / "p", noisy), _encode(tmp_path / "o.mkv", originals)
    result = _run(processed, original, "--flow", "ilk", "--label", "x", "--json")
    assert result.code == 0
    content = json.loads(result.out)
    expected = warping_error(noisy, originals, flow="ilk")
    assert content["mean"] == expected.mean
    assert content["images"] == expected.pairs
    assert (content["kind"], content["label"], content["skipped"]) == ("paired", "x", {})
    assert content["metric"] == {
        "key": "warping_error",
        "title": "Temporal warping error",
        "unit": "",
        "higher_is_better": False,
    }
    assert content["settings"]["flow"] == "ilk"
    assert content["settings"]["flow_of"] == "original video"
    assert content["settings"]["used_share"] == expected.used_share
    assert "scikit-image" in content["environment"]

    table = _run(processed, original, "--flow", "ilk", "--max-frames", "2").out
    assert f"{expected.pairs['0-1']:.6f}" in table
    assert "ilk flow of the original video" in table
    alone = json.loads(_run(processed, "--flow", "ilk", "--json").out)
    assert alone["settings"]["flow_of"] == "processed video"
    assert alone["mean"] == warping_error(noisy, flow="ilk").mean


def test_errors_of_the_command(photograph: Frame, tmp_path: Path) -> None:
    frames = _moving(photograph, 3, 0)
    folder, shorter = _save(tmp_path / "three", frames), _save(tmp_path / "two", frames[:2])
    smaller = _save(tmp_path / "small", [f[:40] for f in frames])
    (tmp_path / "empty").mkdir()
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    damaged = _save(tmp_path / "damaged", frames)
    (damaged / "frame-9.png").write_bytes(b"nothing")
    for arguments, message in (
        ((folder, tmp_path / "missing"), "missing does not exist"),
        ((folder, tmp_path / "empty"), "empty holds no image"),
        ((folder, shorter), "must have the same number of frames, got 3 in"),
        ((folder, smaller), "72x56 pixels in the processed video and 72x40 in the original"),
        ((damaged,), "frame-9.png"),
        ((folder, "--flow", "raft"), "'raft' is not one of"),
        ((folder, "--max-frames", "1"), "Invalid value for '--max-frames'"),
    ):
        result = _run(*arguments)
        assert result.code == 2, message
        assert message in result.error
        assert result.out == ""
    pytest.importorskip("av", reason="PyAV is not installed")
    assert "notes.mp4 does not decode as a video" in _run(text).error


def test_videos_need_pyav(
    photograph: Frame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    video = tmp_path / "video.mp4"
    video.touch()
    result = _run(video)
    assert result.code == 2
    assert "video files need PyAV: run `pip install av`, or give folders of frames" in result.error
