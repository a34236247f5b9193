# SPDX-License-Identifier: Apache-2.0
"""Files of the zoo's codecs decode to the same indices, whatever the machine does differently.

``tests/golden/gac`` has files and the SHA-256 of their indices; ``python tests/codec/test_bit_exactness.py`` adds those
that are missing. It never replaces one: a file that decodes differently is a fault.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genaccel import zoo
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.image_codec import ImageCodec

FOLDER = Path(__file__).parents[1] / "golden" / "gac"
MODELS = zoo.names("codec")
OPTIONS = {
    "whole": EncodeOptions(),
    "static": EncodeOptions(static_tables=True),
    "prefix": EncodeOptions(num_slices=10),
    "half": EncodeOptions(half_size=True),
}
_DECODE = """
import json, sys
from pathlib import Path
import torch
from genaccel.codec.image_codec import ImageCodec
threads, precision = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(threads)
torch.set_float32_matmul_precision("medium" if precision == "bf16" else "highest")
codec = ImageCodec.from_pretrained(sys.argv[3])
with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
    for name in sys.argv[4:]:
        maps = codec.decode_indices(Path(name).read_bytes())
        print(json.dumps([m.tolist() for m in maps]))
"""


def digest(index_maps):
    sha = hashlib.sha256()
    for index_map in index_maps:
        sha.update(np.ascontiguousarray(index_map, "<i4").tobytes())
    return sha.hexdigest()


def golden(model):
    """Files of a model and the digests of their indices."""
    return json.loads((FOLDER / f"{model}.json").read_text())


def test_every_codec_of_the_zoo_has_golden_files():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == MODELS


@pytest.mark.parametrize("model", MODELS)
def test_indices_of_golden_files(model):
    codec = ImageCodec.from_pretrained(model)
    for name, expected in golden(model).items():
        data = (FOLDER / name).read_bytes()
        assert digest(codec.decode_indices(data)) == expected, name


@pytest.mark.parametrize("model", MODELS)
def test_golden_files_are_made_again_byte_by_byte(model):
    """From their indices: an encoder network may round otherwise on another machine, the coders may not."""
    codec = ImageCodec.from_pretrained(model)
    for name in golden(model):
        data = (FOLDER / name).read_bytes()
        maps = codec.decode_indices(data)
        described = codec.info(data)
        version = described.format_version
        image = np.empty((described.height, described.width, 3), np.uint8)
        assert codec._file(image, maps, described.num_slices, version, described.half_size) == data


@pytest.mark.parametrize(
    ("threads", "precision", "capability", "onednn"),
    [
        (1, "fp32", "default", ""),
        (2, "fp32", "avx2", ""),
        (2, "bf16", "avx512", ""),
        (1, "bf16", "default", "SSE41"),
    ],
)
def test_golden_files_decode_alike_in_every_process(threads, precision, capability, onednn):
    if capability.upper() not in ("DEFAULT", "AVX2", torch.backends.cpu.get_cpu_capability()):
        pytest.skip(f"this processor has no {capability}")
    model = MODELS[0]
    names = list(golden(model))
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    if onednn:
        environment["ONEDNN_MAX_CPU_ISA"] = onednn
    result = subprocess.run(
        # -P: the package as it is installed, or linked (tests/abi/run.sh), not the checkout.
        [sys.executable, "-P", "-c", _DECODE, str(threads), precision, model]
        + [str(FOLDER / name) for name in names],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for name, line in zip(names, lines, strict=True):
        maps = [np.array(m) for m in json.loads(line)]
        assert digest(maps) == golden(model)[name], name


@pytest.mark.parametrize("model", MODELS)
def test_one_window_or_eight_at_once(model):
    """Eight images in one batch give the logits of each alone."""
    entropy_model = ImageCodec.from_pretrained(model).entropy_model
    order = entropy_model.slice_order
    indices = torch.randint(1024, (8, order.num_tokens), generator=torch.manual_seed(0))
    together, alone = entropy_model.begin(8), [entropy_model.begin(1) for _ in range(8)]
    previous = None
    for number in range(order.num_slices):
        logits = entropy_model.step(together, previous)
        for window, state in enumerate(alone):
            own = None if previous is None else previous[window : window + 1]
            assert torch.equal(entropy_model.step(state, own)[0], logits[window])
        previous = indices[:, entropy_model.tokens_of_slice(number)]


@pytest.mark.cuda
@pytest.mark.parametrize("model", MODELS)
def test_golden_files_decode_alike_on_a_gpu(model):
    codec = ImageCodec.from_pretrained(model, "cuda")
    for name, expected in golden(model).items():
        assert digest(codec.decode_indices((FOLDER / name).read_bytes())) == expected, name


def main():
    """Write the golden files that are missing."""
    from genaccel.eval.held_out import held_out_photographs

    photograph = held_out_photographs()["coffee"][100:300, 150:450].copy()  # no whole windows
    FOLDER.mkdir(exist_ok=True)
    for model in MODELS:
        digests = golden(model) if (FOLDER / f"{model}.json").exists() else {}
        codec = ImageCodec.from_pretrained(model)
        for kind, options in OPTIONS.items():
            name = f"{model}-{kind}.gac"
            if name in digests:
                continue
            data = codec.encode(photograph, options)
            (FOLDER / name).write_bytes(data)
            digests[name] = digest(codec.decode_indices(data))
        (FOLDER / f"{model}.json").write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    main()
