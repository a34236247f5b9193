# SPDX-License-Identifier: Apache-2.0
import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from urllib.error import URLError

import pytest
import torch

from genaccel.models import torchvision_weights
from genaccel.models.torchvision_weights import (
    WEIGHT_FILES,
    WeightFile,
    find_weights,
    identify_weights,
    load_features,
)

CONTENT = b"not really weights"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where torch.hub keeps its files, and no network."""

    def no_network(*args: object, **kwargs: object) -> NoReturn:
        raise OSError("this test has no network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.fixture
def publish(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[bytes | None], WeightFile]:
    """Publish :data:`CONTENT` as ``alexnet``; what its address delivers can differ."""

    def published(delivered: bytes | None) -> WeightFile:
        source = tmp_path / "published.pth"
        if delivered is not None:
            source.write_bytes(delivered)
        file = WeightFile(
            url=source.as_uri(), sha256_prefix=hashlib.sha256(CONTENT).hexdigest()[:8]
        )
        monkeypatch.setattr(torchvision_weights, "WEIGHT_FILES", {"alexnet": file})
        return file

    return published


def test_hashes_are_those_in_the_names_of_the_files() -> None:
    for file in WEIGHT_FILES.values():
        assert file.file_name.endswith(f"-{file.sha256_prefix}.pth")
        assert len(file.sha256_prefix) == 8


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("alexnet", "AlexNet_Weights"),
        ("mobilenet_v2", "MobileNet_V2_Weights"),
        ("squeezenet1_1", "SqueezeNet1_1_Weights"),
        ("vgg16", "VGG16_Weights"),
    ],
)
def test_addresses_are_those_of_torchvision(name: str, weights: str) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    assert WEIGHT_FILES[name].url == getattr(models, weights).IMAGENET1K_V1.url


def test_address_is_that_of_pytorch_fid() -> None:
    inception = pytest.importorskip("pytorch_fid.inception", reason="pytorch-fid is not installed")
    assert WEIGHT_FILES["fid_inception"].url == inception.FID_WEIGHTS_URL


def test_a_kept_file_is_found_and_checked(
    hub: Path, publish: Callable[[bytes | None], WeightFile]
) -> None:
    file = publish(None)
    kept = hub / file.file_name
    kept.write_bytes(CONTENT)
    assert find_weights("alexnet") == kept
    kept.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"published\.pth is damaged.*delete it"):
        find_weights("alexnet")
    assert find_weights("alexnet", kept) == kept  # the user's own files are theirs to judge


def test_a_missing_file_is_downloaded_once(
    hub: Path,
    publish: Callable[[bytes | None], WeightFile],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file = publish(CONTENT)
    assert find_weights("alexnet") == hub / file.file_name
    assert (hub / file.file_name).read_bytes() == CONTENT
    captured = capsys.readouterr()
    assert file.url in captured.err
    assert captured.out == ""
    (tmp_path / "published.pth").unlink()
    assert find_weights("alexnet") == hub / file.file_name


def test_a_changed_download_is_refused_and_not_kept(
    hub: Path, publish: Callable[[bytes | None], WeightFile]
) -> None:
    publish(CONTENT + b"!")
    with pytest.raises(ValueError, match="did not arrive as published"):
        find_weights("alexnet")
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize("name", list(WEIGHT_FILES))
def test_without_a_network_the_message_says_where_to_get_the_file(name: str, hub: Path) -> None:
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as caught:
        find_weights(name)
    message = str(caught.value)
    assert WEIGHT_FILES[name].url in message
    assert "--weights FILE" in message
    assert "\n" not in message
    assert isinstance(caught.value.__cause__, URLError)
    assert list(hub.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_crash(
    hub: Path, publish: Callable[[bytes | None], WeightFile]
) -> None:
    publish(CONTENT)
    hub.rmdir()
    hub.write_bytes(b"a file in the folder's place")
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        find_weights("alexnet")


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name must be one of alexnet, .*got 'resnet'"):
        find_weights("resnet")
    with pytest.raises(FileNotFoundError, match=r"no weight file .*absent\.pth"):
        find_weights("alexnet", tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="no weight file"):
        find_weights("alexnet", tmp_path)


def test_only_the_features_are_loaded(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 3, 3)
    path = tmp_path / "own.pth"
    torch.save({"features.0.weight": weight, "classifier.1.weight": torch.ones(2)}, path)
    features = load_features("vgg16", path)
    assert list(features) == ["0.weight"]
    assert torch.equal(features["0.weight"], weight)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short"])
def test_files_of_other_kinds_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"own\.pth is not a weight file of PyTorch"):
        load_features("vgg16", path)


@pytest.mark.parametrize("state", [{"layer.weight": torch.ones(1)}, [1, 2], torch.ones(3)])
def test_other_state_dicts_are_refused(state: object, tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"no features\.\* in it"):
        load_features("vgg16", path)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    torch.save({"features.0.weight": Path("harmless, but no tensor")}, path)
    with pytest.raises(ValueError, match="not a weight file of PyTorch"):
        load_features("vgg16", path)


def test_a_file_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vgg16-397923af.pth"  # a name proves nothing
    path.write_bytes(b"others")
    digest = hashlib.sha256(b"others").hexdigest()
    found, warnings = identify_weights("vgg16", path)
    assert found == digest
    assert len(warnings) == 1
    assert f"is not the published vgg16-397923af.pth: its SHA-256 is {digest}" in warnings[0]
    published = WeightFile(url="https://x/y.pth", sha256_prefix=digest[:8])
    monkeypatch.setitem(torchvision_weights.WEIGHT_FILES, "vgg16", published)  # type: ignore[arg-type]
    assert identify_weights("vgg16", path) == (digest, [])
