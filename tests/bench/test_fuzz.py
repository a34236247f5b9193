# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench._fuzz.containers import SECTIONS, mutant, sealed, split
from bench._fuzz.folders import mutated_files
from bench._fuzz.subject import MUTATIONS, random_of
from genaccel.codec.format.bitstream import Bitstream
from genaccel.errors import BitstreamError, LimitExceededError

SCRIPT = Path(__file__).with_name("fuzz_cases.py")
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def run_script(what, folder):
    done = subprocess.run(
        [sys.executable, SCRIPT, what, folder],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def files():
    shared = {"model_number": 0, "model_digest": b"abcd"}
    return [
        Bitstream(width=300, height=20, payload=b"payload", version=1, **shared),
        Bitstream(width=1, height=1, payload=b"", version=2, num_slices=3, **shared),
        Bitstream(width=70, height=65535, payload=b"x" * 40, version=2, half_size=True, **shared),
    ]


@pytest.mark.parametrize("stream", files())
def test_sections_are_those_of_the_format(stream):
    data = stream.to_bytes()
    parts = dict(zip([section.name for section in SECTIONS], split(data), strict=True))
    assert sealed(b"".join(parts.values())) == data
    assert parts["payload"] == stream.payload
    assert parts["model digest"] == b"abcd"
    assert parts["slices"] == (b"" if stream.num_slices is None else b"\3")


def test_mutants_reach_behind_the_checksum_and_are_the_same_each_time():
    valid = [stream.to_bytes() for stream in files()]
    made = [mutant(random_of("container", number), valid) for number in range(1500)]
    assert made == [mutant(random_of("container", number), valid) for number in range(1500)]
    assert len(set(made)) > 1100
    messages = []
    for data in made:
        try:
            Bitstream.from_bytes(data)
        except (BitstreamError, LimitExceededError) as error:
            messages.append(str(error))
    assert 150 < len(messages) < 1400
    assert sum("checksum" in message for message in messages) < 0.2 * len(messages)
    for what in ("flags", "width", "height", "slices", "pixels per byte", "not a .gac", "version"):
        assert any(what in message for message in messages), what


def test_damage_is_damage():
    data = bytes(range(64))
    for mutation in MUTATIONS:
        changed = [mutation(random_of("a", number), data) != data for number in range(20)]
        assert sum(changed) > 15, mutation.__name__
        mutation(random_of("a", 0), b"")  # of nothing, too
    whole = {"a.json": b'{"a": [1, {"b": "c"}]}', "b.bin": data}
    folders = [mutated_files(random_of("b", number), whole) for number in range(100)]
    assert sum(folder != whole for folder in folders) > 80
    assert any(isinstance(content, str) for f in folders for content in f.values())  # links


@linux
def test_each_end_is_laid_to_the_input_that_was_read(tmp_path):
    result = run_script("watch", tmp_path)
    ends = [(number, end) for number, end, _, _ in result["outcomes"]]
    assert ends == list(
        enumerate(
            [
                *("ok", "refused", "outside", "outside", "crash"),
                *("hang", "memory", "time", "crash", "ok"),
            ]
        )
    )
    details = [detail for _, _, detail, _ in result["outcomes"]]
    assert details[1] == "ValueError"
    assert details[3].startswith("KeyError: 'x' at fuzz_cases.py:")
    assert details[4] == "signal 11"
    assert details[8] == "exit 3"
    assert result["saved"] == {f"known-{n}": str(n) for n in range(2, 9)}


@linux
def test_a_short_run_finds_nothing_outside_the_contracts(tmp_path):
    for kind, (ends, failures, count) in run_script("short", tmp_path).items():
        assert failures == [], kind
        assert set(ends) <= {"ok", "refused"}
        assert sum(ends.values()) == count
        assert ends["refused"] > 0.3 * count
        assert ends["ok"] > 0.02 * count, kind  # mutants that are read to the end
