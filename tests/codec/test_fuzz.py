# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz_decoder.py")


@pytest.mark.skipif(sys.platform != "linux", reason="the memory guard reads /proc")
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files_end_in_a_clear_error(codec, model_folder, picture, tmp_path, count):
    sizes = [(1, 1), (31, 33), (100, 127), (16, 8)]
    valid = [codec.encode(picture(*size, seed=i)).hex() for i, size in enumerate(sizes)]
    (tmp_path / "valid.txt").write_text("\n".join(valid))
    result = subprocess.run(
        [sys.executable, SCRIPT, model_folder, tmp_path / "valid.txt", str(count)],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    endings = json.loads(result.stdout)
    assert sum(endings.values()) == count
    # The mutations reach behind the checksum: to the model digest, to the limits, and to the payload.
    expected = {"BitstreamError", "UnknownModelError", "LimitExceededError"}
    assert expected <= set(endings) <= expected | {"image"}
    assert endings.get("image", 0) < 0.05 * count
