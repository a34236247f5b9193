# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genaccel import ops

GOLDEN = Path(__file__).parents[1] / "golden" / "rdvq_cdf"


@pytest.mark.golden
def test_equals_the_authors_tables(device):
    tensors = load_file(GOLDEN / "cdf.safetensors")
    examples = json.loads((GOLDEN / "meta.json").read_text())["examples"]
    assert len(examples) == 20
    for example in examples:
        number = f"{example['index']:02d}"
        cdf = ops.pmf_to_cdf(tensors[f"pmf_{number}"].to(device), example["precision"])
        assert torch.equal(cdf.cpu(), tensors[f"cdf_{number}"]), f"example {number}"


@pytest.mark.golden
def test_equal_remainders_go_to_the_lowest_symbols(device):
    tensors = load_file(GOLDEN / "cdf.safetensors")
    frequencies = ops.pmf_to_cdf(tensors["tie_pmf"].to(device), 16).diff().cpu()
    assert torch.equal(frequencies.sort().values, tensors["tie_cdf"].diff().sort().values)
    assert torch.equal(frequencies, frequencies.sort(descending=True).values)


def test_every_symbol_can_be_coded_and_the_sum_is_exact(device):
    pmf = torch.rand(50, 333, dtype=torch.float64, device=device).pow(40)
    cdf = ops.pmf_to_cdf(pmf, 16)
    assert cdf.dtype == torch.int32
    assert bool((cdf[:, 0] == 0).all())
    assert bool((cdf[:, -1] == 2**16).all())
    assert bool((cdf.diff(dim=1) >= 1).all())


def test_cost_is_within_the_floor_of_one_slot_per_symbol(device):
    pmf = torch.rand(20, 1000, dtype=torch.float64, device=device).pow(4)
    pmf /= pmf.sum(dim=1, keepdim=True)
    frequencies = ops.pmf_to_cdf(pmf, 16).diff(dim=1).double()
    extra = (pmf * (pmf / (frequencies / 2**16)).log2()).sum(dim=1)  # bits per symbol
    assert float(extra.max()) <= -torch.tensor(1 - 1000 / 2**16).log2() + 1e-3


def test_scale_of_the_row_does_not_matter(device):
    pmf = torch.rand(4, 77, device=device)
    assert torch.equal(ops.pmf_to_cdf(pmf, 12), ops.pmf_to_cdf(pmf * 2**20, 12))


def test_what_is_no_probability_counts_as_zero(device):
    pmf = torch.tensor([[1.0, -1.0, float("nan"), float("inf"), 3.0]], device=device)
    assert torch.equal(
        ops.pmf_to_cdf(pmf, 8), ops.pmf_to_cdf(torch.tensor([[1.0, 0, 0, 0, 3]], device=device), 8)
    )
    zeros = ops.pmf_to_cdf(torch.zeros(1, 4, device=device), 4)
    assert zeros.tolist() == [[0, 4, 8, 12, 16]]


def test_extra_dimensions_are_kept(device):
    assert ops.pmf_to_cdf(torch.rand(2, 3, 5, device=device), 8).shape == (2, 3, 6)
    assert ops.pmf_to_cdf(torch.rand(5, device=device), 8).shape == (6,)
    assert ops.pmf_to_cdf(torch.rand(0, 3, 5, device=device), 8).shape == (0, 3, 6)


@pytest.mark.parametrize(
    ("pmf", "precision", "error", "message"),
    [
        ([0.5, 0.5], 8, TypeError, "pmf must be a tensor"),
        (torch.ones(4, dtype=torch.int64), 8, TypeError, "float32 or float64"),
        (torch.ones(4), 8.0, TypeError, "precision must be an int"),
        (torch.ones(4), 0, ValueError, r"precision must be in \[1, 24\], got 0"),
        (torch.ones(4), 25, ValueError, "got 25"),
        (torch.ones(5), 2, ValueError, r"1 to 2\*\*precision = 4 symbols"),
        (torch.ones(2, 0), 2, ValueError, "1 to"),
        (torch.tensor(1.0), 2, ValueError, "1 to"),
    ],
)
def test_bad_arguments_are_named(pmf, precision, error, message):
    with pytest.raises(error, match=message):
        ops.pmf_to_cdf(pmf, precision)
