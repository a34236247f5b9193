# SPDX-License-Identifier: Apache-2.0
"""Whether two checkpoints hold the same."""

import torch


def assert_same(a, b):
    """Two states of nested containers are equal to the last bit."""
    if torch.is_tensor(a):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b
