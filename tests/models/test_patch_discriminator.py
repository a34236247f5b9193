# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from genaccel.models.patch_discriminator import PatchDiscriminator, PatchDiscriminatorParams


def test_the_default_has_the_size_of_the_papers():
    parameters = PatchDiscriminator(PatchDiscriminatorParams()).parameters()
    assert sum(p.numel() for p in parameters) == 2_765_633


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70)])
def test_a_verdict_sees_one_patch(layers, side):
    params = PatchDiscriminatorParams(width=4, strided_layers=layers)
    network = PatchDiscriminator(params).eval()  # batch norms in training see everything
    x = torch.rand(1, 3, 128, 128, requires_grad=True)
    verdicts = network(x)
    expected = 128 // 2**layers - 2
    assert verdicts.shape == (1, 1, expected, expected)
    verdicts[0, 0, expected // 2, expected // 2].backward()
    rows = (x.grad[0].abs().sum((0, 2)) > 0).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == side


def test_out_of_range_is_refused():
    network = PatchDiscriminator(PatchDiscriminatorParams(width=4))
    with pytest.raises(ValueError, match="at least 24"):
        network(torch.zeros(1, 3, 16, 32))
    with pytest.raises(ValueError, match=r"width must be in \[1, 4096\]"):
        PatchDiscriminatorParams(width=0)
