# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path

import pytest

from genaccel.codec.encoder.encode_options import EncodeOptions

SCRIPT = Path(__file__).with_name("fuzz_decoder.py")


@pytest.fixture
def fuzz(tmp_path, picture):
    """Decodes so many mutated files in a process of its own; gives how they ended."""

    def run(codec, folder, count, *options):
        sizes = [(1, 1), (31, 33), (100, 127), (16, 8)]
        valid = [
            codec.encode(picture(*size, seed=i), EncodeOptions(half_size=i > 1)).hex()
            for i, size in enumerate(sizes)
        ]
        (tmp_path / "valid.txt").write_text("\n".join(valid))
        result = subprocess.run(
            [sys.executable, SCRIPT, folder, tmp_path / "valid.txt", str(count), *options],
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        endings = json.loads(result.stdout)
        assert sum(endings.values()) == count
        return endings

    return run


# The mutations reach behind the checksum: to the model digest, to the limits, and to the payload.
ERRORS = {"BitstreamError", "UnknownModelError", "LimitExceededError"}
guarded = pytest.mark.skipif(sys.platform != "linux", reason="the memory guard reads /proc")
many = pytest.param(50_000, marks=pytest.mark.slow)


@guarded
@pytest.mark.parametrize("count", [500, many])
def test_mutated_files_of_static_tables_end_in_a_clear_error(codec, model_folder, fuzz, count):
    endings = fuzz(codec, model_folder, count)
    assert ERRORS <= set(endings) <= ERRORS | {"image"}
    assert endings.get("image", 0) < 0.05 * count


@guarded
@pytest.mark.parametrize("count", [1000, many])
def test_mutated_files_of_entropy_models_end_in_a_clear_error(
    entropy_codec, entropy_model_folder, fuzz, count
):
    endings = fuzz(entropy_codec, entropy_model_folder, count)
    assert ERRORS <= set(endings) <= ERRORS | {"image"}
    assert endings.get("image", 0) < 0.05 * count


@guarded
@pytest.mark.parametrize("count", [500, many])
def test_mutated_files_that_may_be_cut_end_in_an_error_or_an_image(
    entropy_codec, entropy_model_folder, fuzz, count
):
    endings = fuzz(entropy_codec, entropy_model_folder, count, "truncated")
    assert ERRORS <= set(endings) <= ERRORS | {"image"}
    assert endings["image"] > 0.05 * count  # nothing vouches for what was not cut off
