# SPDX-License-Identifier: Apache-2.0
"""Folders of models by somebody who means harm, or by accident: one kind of error, at once, and no memory."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_codec import TINY_EFFICIENT, TINY_ENTROPY, TINY_VQGAN

from genaccel.codec.image_codec import INTEGER_ENTROPY_FOLDER, ImageCodec
from genaccel.codec.training.trained_networks import load_networks
from genaccel.errors import ModelFolderError, UnknownModelError
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.integer_entropy_model import IntegerEntropyModel
from genaccel.models.integer_export import quantize
from genaccel.models.masked_entropy_model import MaskedEntropyModel
from genaccel.models.registry import check_model_folder, network_in, record_parts
from genaccel.models.restoration import Restoration, RestorationConfig
from genaccel.speculative_sr.draft_network import DraftParams, SuperResolutionDraft
from genaccel.speculative_sr.networks import SuperResolutionBase, SuperResolutionParams

TINY_SUPER_RESOLUTION = SuperResolutionParams(
    channels=64, num_layers=3, stem_channels=8, upscaler_channels=8, upscaler_blocks=1
)

DEEP = json.loads("[" * 300 + "]" * 300)
LONG = [1] * 20_000
HUGE = 2**40
# What may stand where a whole number belongs.
WRONG = [None, True, -1, 0, HUGE, 2.0, 1e300, "4", "4" * 10_000, [4], {}, DEEP]

NETWORKS = {
    "efficient": lambda: Autoencoder(TINY_EFFICIENT),
    "vqgan": lambda: Autoencoder(TINY_VQGAN),
    "entropy": lambda: MaskedEntropyModel(TINY_ENTROPY),
    "integer": lambda: integer_model(),
    "restoration": lambda: Restoration(
        RestorationConfig(channels=8, num_blocks=2, num_inner_blocks=1, condition_channels=4)
    ),
    "super-resolution": lambda: SuperResolutionBase(TINY_SUPER_RESOLUTION),
    "super-resolution draft": lambda: SuperResolutionDraft(DraftParams(base=TINY_SUPER_RESOLUTION)),
}


def integer_model(seed=0):
    torch.manual_seed(seed)
    model = MaskedEntropyModel(TINY_ENTROPY).eval()
    codebook = torch.nn.functional.normalize(torch.randn(32, 4))
    return quantize(model, codebook, torch.randint(32, (4, model.slice_order.num_tokens)))


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """A folder of each network, by its name."""
    root = tmp_path_factory.mktemp("networks")
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        make().save_pretrained(root / name)
    return root


@pytest.fixture
def copy_of(networks, tmp_path):
    """Copies the folder of a network."""

    def copy(name):
        shutil.copytree(networks / name, tmp_path / name)
        return tmp_path / name

    return copy


@pytest.fixture
def codec_folder(copy_of, networks):
    """A codec with its entropy model; its parts are not listed."""
    folder = copy_of("efficient")
    shutil.copytree(networks / "integer", folder / INTEGER_ENTROPY_FOLDER)
    return folder


def load(folder):
    """What the network of a folder is loaded by."""
    name = folder.name
    kinds = {
        "entropy": MaskedEntropyModel,
        "integer": IntegerEntropyModel,
        "restoration": Restoration,
        "super-resolution": SuperResolutionBase,
        "super-resolution draft": SuperResolutionDraft,
    }
    return kinds.get(name, Autoencoder).from_pretrained(folder)


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def refused(folder, match=None):
    begun = time.process_time()
    with pytest.raises(ModelFolderError, match=match) as error:
        load(folder)
    assert time.process_time() - begun < 5
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def places(value, path=()):
    """Keys of all numbers and lists in a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))
        if not isinstance(inner, str | dict) and key != "version":
            yield (*path, key)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_no_number_of_a_configuration_may_be_anything_else(copy_of, name):
    folder = copy_of(name)
    config = json.loads((folder / "config.json").read_text())
    # Of each list one entry is enough.
    numbers = [p for p in places(config) if not isinstance(p[-1], int) or p[-1] == 0]
    assert len(numbers) > 3
    for number, path in enumerate(numbers):
        # Each kind of value somewhere, not each everywhere.
        for value in (WRONG[number % len(WRONG)], WRONG[(5 * number + 3) % len(WRONG)], LONG):
            changed = json.loads(json.dumps(config))
            owner = changed
            for key in path[:-1]:
                owner = owner[key]
            if path[-1] == "dropout" and value == 0:
                continue  # as good as another
            if path[-1] in ("epsilon", "fraction_bits") and value == 0:
                continue
            owner[path[-1]] = value
            (folder / "config.json").write_text(json.dumps(changed))
            refused(folder)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_values_of_the_wrong_type_have_one_error(copy_of, name):
    for value in WRONG:
        folder = copy_of(name)
        first = next(
            k
            for k, v in json.loads((folder / "config.json").read_text()).items()
            if k not in ("type", "version") and type(v) is not str
        )
        edit(folder, lambda config, k=first, v=value: config.update({k: v}))
        refused(folder)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("efficient", lambda c: c.pop("backbone")),
        ("efficient", lambda c: c.update(backbone={"type": ["efficient"]})),
        ("efficient", lambda c: c["backbone"].update(bottleneck_ratio=0)),
        ("efficient", lambda c: c["backbone"].update(tail_widths=[])),
        ("efficient", lambda c: c["backbone"].update(widths=[16] * 30, encoder_blocks=[1] * 30)),
        ("efficient", lambda c: c["backbone"].update(encoder_blocks=[10**6, 1])),
        (
            "efficient",
            lambda c: c["backbone"].update(widths=[4096, 4096], decoder_widths=[4096] * 2),
        ),
        ("vqgan", lambda c: c["backbone"].update(norm_groups=0)),
        ("vqgan", lambda c: c["backbone"].update(channel_multipliers=[])),
        ("vqgan", lambda c: c["backbone"].update(base_channels=2048, latent_channels=4096)),
        ("entropy", lambda c: c.update(heads=0)),
        ("entropy", lambda c: c.update(window_side=64, num_scales=8)),
        ("entropy", lambda c: c.update(width=8192, layers=128, feed_forward_width=32768)),
        ("integer", lambda c: c["blocks"][0].update(gate_shift=31)),
        ("integer", lambda c: c.update(blocks=c["blocks"] * 100_000)),
        ("integer", lambda c: c["entropy"].update(heads=1, width=4096)),
        ("restoration", lambda c: c.update(channels=8.0)),
        ("restoration", lambda c: c.update(extra=1)),
    ],
)
def test_configurations_that_once_divided_by_zero_or_took_gigabytes(copy_of, name, change):
    folder = copy_of(name)
    edit(folder, change)
    refused(folder)


def test_nothing_is_allocated_for_tensors_that_are_not_there(copy_of, monkeypatch):
    """Within all ranges, but of 6 GB: the file says that it holds less."""
    folder = copy_of("entropy")
    edit(folder, lambda c: c.update(width=8192, layers=8, feed_forward_width=16384, heads=64))
    made = []
    empty = torch.empty

    def note(*size, **options):
        made.append(empty(*size, device="meta").numel())
        return empty(*size, **options)

    monkeypatch.setattr(torch, "empty", note)
    refused(folder, "which asks for more than the file has")
    assert sum(made) < 2**24


def test_damaged_tensors(copy_of):
    folder = copy_of("efficient")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    tensors = load_tensors(whole)
    for data in (b"", b"x" * 5, whole[:100], whole[:-1], whole + b"x", b"\xff" * 16 + whole):
        path.write_bytes(data)
        refused(folder, "is damaged")
    name = "quantize.embedding.weight"
    for wrong, message in (
        ({name: tensors[name].int()}, "as I32 instead of F16 or BF16"),
        ({name: tensors[name].T.contiguous()}, "in the shape"),
        ({name: tensors[name] * float("nan")}, "not finite"),
        ({"index_cdfs": tensors["index_cdfs"].flip(1)}, "index_cdfs must increase"),
        ({"index_cdfs": tensors["index_cdfs"].long()}, "as I64 instead of I32"),
        ({"more": torch.zeros(1)}, "has no use for its tensor 'more'"),
    ):
        save_file({**tensors, **{k: v.contiguous() for k, v in wrong.items()}}, path)
        refused(folder, message)
    save_file({k: v for k, v in tensors.items() if k != name}, path)
    refused(folder, "lacks the tensor")
    save_file({k: v.bfloat16() if v.is_floating_point() else v for k, v in tensors.items()}, path)
    load(folder)


def test_taps_that_lead_out_of_the_tokens_are_refused(copy_of):
    folder = copy_of("integer")
    path = folder / "model.safetensors"
    tensors = load_tensors(path.read_bytes())
    for tap in (-1, 2**62, 4):
        tensors["seed_taps_1"][0, 0] = tap
        save_file(tensors, path)
        refused(folder, r"seed_taps_1 must be in \[0, 4\)")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"a":' * 100_000, '{"type": NaN}']
)
def test_what_is_no_configuration(copy_of, text):
    folder = copy_of("efficient")
    (folder / "config.json").write_text(text)
    refused(folder)
    with pytest.raises(UnknownModelError):
        ImageCodec.from_pretrained(folder)


def test_pipes_and_devices_are_not_read(copy_of):
    for name in ("config.json", "model.safetensors"):
        folder = copy_of("efficient")
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
            load(folder)
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
            load(folder)
        shutil.rmtree(folder)


def test_files_may_be_links_as_in_the_cache_of_the_hub(codec_folder, tmp_path):
    record_parts(codec_folder)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    for number, path in enumerate(sorted(codec_folder.rglob("*.*"))):
        shutil.copy(path, blobs / str(number))
        link = snapshot / path.relative_to(codec_folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    assert ImageCodec.from_pretrained(snapshot).entropy_model is not None


def test_a_folder_that_is_a_link_out_of_the_model_is_not_followed(codec_folder, networks):
    shutil.rmtree(codec_folder / INTEGER_ENTROPY_FOLDER)
    (codec_folder / INTEGER_ENTROPY_FOLDER).symlink_to(networks / "integer")
    with pytest.raises(UnknownModelError, match="leads elsewhere"):
        ImageCodec.from_pretrained(codec_folder)
    (codec_folder / "entropy").symlink_to(networks / "entropy")
    with pytest.raises(ModelFolderError, match="leads elsewhere"):
        load_networks(codec_folder)


@pytest.mark.parametrize("path", ["../../x", "/etc", "..", ".", "a/../../..", "../..", "x\0y"])
def test_no_path_of_a_part_leads_away(codec_folder, path):
    record_parts(codec_folder)
    edit(codec_folder, lambda c: c["parts"].update({"entropy": {"sha256": "0", "path": path}}))
    with pytest.raises((ModelFolderError, FileNotFoundError)):
        check_model_folder(codec_folder, "autoencoder")
    with pytest.raises(UnknownModelError):
        ImageCodec.from_pretrained(codec_folder)


@pytest.mark.parametrize("name", ["../integer", "/etc/passwd", "..", "a/../../b"])
def test_no_name_of_a_part_leads_away(codec_folder, networks, name):
    shutil.copytree(networks / "integer", codec_folder.parent / "integer")
    record_parts(codec_folder)
    edit(codec_folder, lambda c: c["parts"].update({name: {"sha256": "0"}}))
    with pytest.raises(ModelFolderError, match="neither in it nor in a folder beside it"):
        check_model_folder(codec_folder, "autoencoder")


def test_the_entropy_model_of_another_model_is_refused(codec_folder, tmp_path):
    ImageCodec.from_pretrained(codec_folder)
    record_parts(codec_folder)
    integer_model(seed=1).save_pretrained(codec_folder / INTEGER_ENTROPY_FOLDER)
    with pytest.raises(UnknownModelError, match="parts of different models do not go together"):
        ImageCodec.from_pretrained(codec_folder)
    # Without a list it has to fit, at least.
    edit(codec_folder, lambda c: c.pop("parts"))
    ImageCodec.from_pretrained(codec_folder)
    Autoencoder(TINY_VQGAN).save_pretrained(tmp_path / "other")
    edit(codec_folder / INTEGER_ENTROPY_FOLDER, lambda c: c["entropy"].update(codebook_size=16))
    path = codec_folder / INTEGER_ENTROPY_FOLDER / "model.safetensors"
    tensors = load_tensors(path.read_bytes())
    for name in ("embedding", "output.weight", "output.multiplier"):
        tensors[name] = tensors[name][:16].contiguous()
    save_file(tensors, path)
    with pytest.raises(UnknownModelError, match="its entropy-int8 is another model's"):
        ImageCodec.from_pretrained(codec_folder)


def test_an_entropy_model_that_was_put_into_a_listed_model_is_refused(copy_of, networks):
    folder = copy_of("efficient")
    record_parts(folder)
    assert network_in(folder, INTEGER_ENTROPY_FOLDER) is None
    shutil.copytree(networks / "integer", folder / INTEGER_ENTROPY_FOLDER)
    with pytest.raises(UnknownModelError, match="none of the parts that this model was saved with"):
        ImageCodec.from_pretrained(folder)
    record_parts(folder)
    assert ImageCodec.from_pretrained(folder).entropy_model is not None


def test_a_part_that_would_be_hashed_for_minutes_is_refused(codec_folder):
    record_parts(codec_folder)
    os.truncate(codec_folder / INTEGER_ENTROPY_FOLDER / "model.safetensors", 2**40)
    begun = time.process_time()
    with pytest.raises(UnknownModelError, match="is larger than 4 GiB"):
        ImageCodec.from_pretrained(codec_folder)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("more", [b'"type": "autoencoder"', b'"x": "\\ud800"', b'"\\uDFFF": {}'])
def test_what_readers_of_json_differ_on_is_refused(copy_of, more):
    folder = copy_of("efficient")
    text = (folder / "config.json").read_bytes().rstrip()
    (folder / "config.json").write_bytes(text[:-1] + b"," + more + b"}")
    refused(folder, "is there twice|half a surrogate pair")
