# SPDX-License-Identifier: Apache-2.0
import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from genaccel.files.untrusted import (
    StoredTensor,
    read_bounded_bytes,
    read_json,
    read_json_object,
    require_tensors,
    stored_tensors,
)


@pytest.fixture
def tensors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int8)}, path)
    return path


def test_json_is_read_as_it_is(tmp_path):
    content = {"a": [1, -2.5, True, None, "ü"], "b": {"c": 2**63}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "a.json") == content
    assert read_json_object(tmp_path / "a.json") == content
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[Infinity]")
    assert read_json(tmp_path / "a.json", infinity=True) == [float("inf")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value"),
        (b'{"a"', "Expecting"),
        (b"\xff\xfe", "can't decode"),
        (b"[NaN]", "NaN is no number of JSON"),
        (b"[-Infinity]", "-Infinity is no number of JSON"),
        (b"[1e999]", "too large a number"),
        (b"[" + b"9" * 5000 + b"]", "too long a number"),
        (b"[" * 40 + b"]" * 40, "nested too deeply"),
        (b"[" * 900 + b"]" * 900, "nested too deeply"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested too deeply"),
    ],
)
def test_damaged_json_is_one_short_sentence_with_the_file(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=message) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path} is damaged: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_what_is_no_object_no_file_or_too_large_is_said(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        read_json_object(path)
    with pytest.raises(ValueError, match="is larger than"):
        read_bounded_bytes(path, 1)
    os.mkfifo(tmp_path / "pipe")  # would wait for a writer
    (tmp_path / "zeros").symlink_to("/dev/zero")  # has no end
    for name in ("none", "pipe", "zeros", "."):
        with pytest.raises(FileNotFoundError, match="is missing, or no file"):
            read_json(tmp_path / name)
        with pytest.raises(FileNotFoundError, match="is missing, or no file"):
            stored_tensors(tmp_path / name)


def test_the_header_of_tensors_is_read_alone(tensors):
    assert stored_tensors(tensors) == {
        "a": StoredTensor("F32", (2, 3)),
        "b": StoredTensor("I8", (4,)),
    }


def header_of(**entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**25) + b"{" * 100,
        header_of(a={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
        header_of(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}) + bytes(4),
        header_of(a={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + bytes(4),
        header_of(a={"dtype": "X", "shape": [1], "data_offsets": [0, 4]}) + bytes(4),
        header_of(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}) + bytes(5),
        header_of(a=3),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_damaged(tmp_path, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged: ") as error:
        stored_tensors(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": (("F32",), (1,))}, "lacks the tensor 'c'"),
        ({"a": (("F32",), (3, 2))}, r"has 'a' in the shape \(2, 3\) instead of \(3, 2\)"),
        ({"a": (("F16", "BF16"), (2, 3))}, "has 'a' as F32 instead of F16 or BF16"),
        ({"b": None}, "has no use for its tensor 'b'"),
    ],
)
def test_tensors_are_compared_with_what_is_expected(tensors, change, message):
    expected = {"a": (("F16", "F32"), (2, 3)), "b": (("I8",), (4,))}
    require_tensors(tensors, expected)
    changed = {k: v for k, v in {**expected, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        require_tensors(tensors, changed)
