# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from genaccel.codec.format.rdvq_container import RdvqFile
from genaccel.errors import BitstreamError

GOLDEN = Path(__file__).parents[1] / "golden" / "rdvq_bitstream"
SMALL = RdvqFile(num_slices=28, height=200, width=330, top=b"top stream", residual=b"rest")


@pytest.mark.golden
@pytest.mark.parametrize("num_slices", [28, 12])
def test_container_is_the_authors(num_slices):
    tensors = load_file(GOLDEN / "bitstream.safetensors")
    stored = {
        key: tensors[f"n{num_slices}_{key}"].tobytes()
        for key in ("container", "top_bytes", "residual_bytes")
    }
    file = RdvqFile.from_bytes(stored["container"])
    assert (file.num_slices, file.height, file.width) == (num_slices, 200, 330)
    assert (file.top, file.residual) == (stored["top_bytes"], stored["residual_bytes"])
    assert file.to_bytes() == stored["container"]


def test_damaged_files_are_refused():
    data = SMALL.to_bytes()
    assert RdvqFile.from_bytes(data) == SMALL
    with pytest.raises(BitstreamError, match="not an RDVQ file"):
        RdvqFile.from_bytes(b"\xc1GAC" + data)
    with pytest.raises(BitstreamError, match="ends inside its header"):
        RdvqFile.from_bytes(data[:20])
    with pytest.raises(BitstreamError, match="truncated"):
        RdvqFile.from_bytes(data[:28])
    with pytest.raises(BitstreamError, match=r"height must be in \[1, 65535\], got 0"):
        RdvqFile.from_bytes(data[:9] + bytes(4) + data[13:])


@pytest.mark.parametrize(
    "values", [{"num_slices": 256}, {"num_slices": -1}, {"height": 0}, {"width": 65536}]
)
def test_fields_out_of_range_are_refused(values):
    fields = {"num_slices": 28, "height": 2, "width": 2, "top": b"", "residual": b""} | values
    with pytest.raises(ValueError, match="must be in"):
        RdvqFile(**fields)
