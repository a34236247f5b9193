# SPDX-License-Identifier: Apache-2.0
"""``bench/gpu.py`` as far as it goes without a GPU: its cases, its counts, its bars and how it reads other tools."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench import gpu, gpu_ops, gpu_smallest
from bench._gpu.cases import GpuCase, bytes_of, compare, gpu_cases, op_cases
from bench._gpu.timing import Ceilings, sets_needed
from bench.harness import Bench

CPU = torch.device("cpu")
TINY_CASES = [
    *gpu_cases("tiny"),
    *(
        dataclasses.replace(case, dtype=torch.float32)
        for case in gpu_cases("tiny")
        if case.dtype == torch.bfloat16
    ),
]
LARGE_CASES = {case.label: case for case in gpu_cases("large")}
# A handful of dependent reads, or inputs of which what is reached is read alone.
WITHOUT_FLOOR = (
    "select_tokens",
    "accept_tree",
    "accept_tree_by_rejection",
    "compact_rows_",
    "path_similarity",
)
CEILINGS = Ceilings(bytes_per_second=4e12, flops_per_second=8e14, cache_bytes=60 << 20)


def label(case):
    return case.label.replace(" ", "_")


@pytest.mark.parametrize("case", TINY_CASES, ids=label)
def test_plain_torch_computes_what_the_operator_does(case):
    torch.manual_seed(0)
    for _ in range(3):
        compare(case, CPU)


def test_a_wrong_operator_is_noticed():
    case = next(c for c in TINY_CASES if c.label == "nearest_code_backward")

    class Wrong(GpuCase):
        def ours(self, grad, features):
            return super().ours(grad, features) * 1.5

    values = {name: getattr(case, name) for name in case.__dataclass_fields__}
    with pytest.raises(AssertionError, match=r"is wrong: .*% differ"):
        compare(Wrong(**values), CPU)


def test_every_operator_has_a_case():
    names = {case.name for case in op_cases()}
    assert {case.op.name for case in TINY_CASES} == names
    assert {case.op.name for case in gpu_ops.all_cases()} == names
    assert len(gpu_ops.all_cases(quick=True)) * 2 == len(gpu_ops.all_cases())
    assert [case.size for case in gpu_ops.all_cases("integer_gate")] == ["large", "model"]
    with pytest.raises(ValueError, match="no operator 'nothing'"):
        gpu_ops.all_cases("nothing")


@pytest.mark.parametrize("case", TINY_CASES, ids=label)
def test_bytes_are_those_of_inputs_and_outputs(case):
    inputs = case.make(CPU)
    assert case.bytes == bytes_of(inputs) + bytes_of(case.ours(*inputs))


def test_floors_are_those_of_the_notes():
    """Bytes and floating-point operations at the large sizes, as they were derived by hand."""
    notes = (Path(gpu.ROOT) / "bench/gpu_notes.md").read_text()
    rows = re.findall(r"^\| (\w[\w ]*) \| (\d+) \| ([\d.]+) \| [\d.]+ \| \w+ \|$", notes, re.M)
    found = [
        (c.label, f"{c.bytes / 1e6:.0f}", f"{c.flops / 1e9:.1f}")
        for c in LARGE_CASES.values()
        if c.op.name not in WITHOUT_FLOOR
    ]
    assert set(rows) == set(found)


def test_large_is_past_the_cache_and_fits_the_card():
    for label, case in LARGE_CASES.items():
        if case.op.bound == "memory" and label != "nearest_code_backward":
            assert case.bytes > 100e6, label
        assert case.bytes < 4e9, label
    tokens = [c for c in gpu_cases("model") if c.op.name in ("token_scores", "predict_add")]
    assert max(case.bytes for case in tokens) < CEILINGS.cache_bytes


def test_inputs_rotate_past_the_cache():
    cache = 60 << 20
    assert sets_needed(1 << 30, cache) == 2
    assert sets_needed(cache, cache) * cache > 4 * cache
    assert sets_needed(1, cache) == 64
    assert sets_needed(20 << 30, cache) == 2


def row(case, **others):
    values = {"ours": 2e-3, "plain": 1e-2, "compiled": 3e-3, "extra": 10_000_000}
    return gpu_ops.result_row(case, CEILINGS, **{**values, **others})


def test_a_row_says_how_far_from_the_floor():
    case = LARGE_CASES["predict_add of 2 terms"]
    found = row(case)
    assert found["floor_ms"] == pytest.approx(1e3 * case.bytes / 4e12)
    assert found["share_of_floor"] == pytest.approx(found["share_of_bandwidth"])
    assert found["share_of_bandwidth"] == pytest.approx(case.bytes / 2e-3 / 4e12)
    assert (found["over_torch"], found["over_compile"]) == (5, 1.5)
    assert found["extra_share"] is None
    assert row(LARGE_CASES["nearest_code"])["extra_share"] == pytest.approx(
        1e7 / (4 * 86016 * 4096)
    )
    missing = row(case, plain=None, compiled=None, extra=None)
    assert missing["over_torch"] is missing["over_compile"] is missing["extra_MB"] is None


def test_bars_and_tables_are_printed_and_written(tmp_path, capsys):
    bench = Bench(name="gpu", quick=True, json_path=tmp_path / "gpu.json")
    predict, nearest = LARGE_CASES["predict_add of 2 terms"], LARGE_CASES["nearest_code"]
    bench.rows = [
        row(predict, ours=predict.bytes / 3.6e12),
        row(nearest, compiled=1e-3, extra=900_000_000),
        {**row(predict), "size": "model"},
    ]
    gpu_ops.add_bars(bench, bench.rows)
    gpu_ops.add_checks(
        bench,
        {
            "cuda_tests": {"failures": 0, "passed": 70, "note": ""},
            "sanitizer": {"failures": None, "passed": 0, "note": "is not installed"},
        },
    )
    bench.finish(["torch"])
    printed = capsys.readouterr().out.splitlines()
    bars = [line for line in printed if line.startswith("bar ")]
    over_compile = 3e-3 / (predict.bytes / 3.6e12)
    share = 9e8 / nearest.rival_bytes
    assert bars == [
        "bar predict_add_of_2_terms_share_of_bandwidth value=0.900 target=0.8 ok",
        f"bar predict_add_of_2_terms_over_compile value={over_compile:.3f} target=1.0 ok",
        "bar nearest_code_over_compile value=0.500 target=1.0 short",
        "bar nearest_code_over_torch value=5.000 target=5.0 ok",
        f"bar nearest_code_extra_memory_share value={share:.3f} target=0.1 short",
        "bar cuda_tests_failures value=0.000 target=0 ok",
    ]
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert [r["operator"] for r in written["rows"]][:2] == [
        "predict_add of 2 terms",
        "nearest_code",
    ]
    assert written["tables"]["checks"][1]["note"] == "is not installed"


def test_smallest_cases_have_elements_and_run():
    for case in op_cases():
        assert all(gpu_smallest.smallest_shape(case).values()) or case.name in (
            "token_scores",
            "predict_add",
            "integer_linear",
            "integer_frequencies",
            "soft_cross_entropy_backward",
        )
        gpu_smallest.run(case, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says that there is no GPU")
def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_ops.py"])
    for main in (lambda: gpu.main([]), gpu_ops.main, lambda: gpu_smallest.main([])):
        assert main() == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "needs a CUDA device" in printed.err
        assert len(printed.err.splitlines()) == 1


def test_commands_of_the_stages():
    options = gpu.parse(["--quick", "--skip", "build", "tests", "--only", "integer_gate"])
    assert (options.skip, options.only, options.quick) == (["build", "tests"], "integer_gate", True)
    with pytest.raises(SystemExit):
        gpu.parse(["--skip", "nothing"])
    assert gpu.result_path("NVIDIA H200").name == "h200-ops.json"
    assert gpu.result_path("NVIDIA A100-SXM4-80GB").name == "a100-sxm4-80gb-ops.json"
    build = gpu.build_command("90")
    assert "cmake.define.CMAKE_CUDA_ARCHITECTURES=90" in build
    assert "--no-build-isolation" in build
    tool = gpu.sanitizer_command("compute-sanitizer", "memcheck", "pmf_to_cdf")
    assert tool[:2] == ["compute-sanitizer", "--tool=memcheck"]
    assert tool[-1] == "pmf_to_cdf"


def test_what_pytest_says_is_read():
    found = gpu.tests_summary(0, "....\n70 passed, 3 skipped, 900 deselected in 61.20s\n")
    assert found == {"failures": 0, "passed": 70, "note": "3 skipped"}
    found = gpu.tests_summary(1, "2 failed, 68 passed, 1 error in 61.20s (0:01:01)\n")
    assert (found["failures"], found["passed"]) == (3, 68)
    assert gpu.tests_summary(4, "ERROR: file not found")["failures"] == 1


def test_what_the_sanitizer_says_is_read():
    output = (
        "========= COMPUTE-SANITIZER\noperator nearest_code\n"
        "========= Invalid __global__ read of size 4 bytes\n=========     at 0x90 in kernel\n"
        "operator pmf_to_cdf\noperator predict_add\n========= ERROR SUMMARY: 1 error\n"
    )
    found = gpu.sanitizer_summary(9, output)
    assert found == {"failures": 1, "passed": 2, "note": "nearest_code: 1"}
    clean = "operator nearest_code\n========= ERROR SUMMARY: 0 errors\n"
    assert gpu.sanitizer_summary(0, clean) == {"failures": 0, "passed": 1, "note": ""}
    assert gpu.sanitizer_summary(1, "")["failures"] == 1
    refused = gpu.sanitizer_summary(1, "========= Error: Device not supported\n")
    assert refused == {"failures": None, "passed": 0, "note": "this machine refuses it"}
