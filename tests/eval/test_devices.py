# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from genaccel.eval.devices import device_by_name


def test_missing_devices_are_a_sentence() -> None:
    assert device_by_name("cpu") == torch.device("cpu")
    for name in ("cuda:99", "toaster"):
        with pytest.raises(ValueError, match=f"device '{name}' is not to be had here"):
            device_by_name(name)
