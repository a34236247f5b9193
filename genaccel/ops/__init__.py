# SPDX-License-Identifier: Apache-2.0
"""Native operators, CPU and CUDA. ``genaccel.reference`` has the same names in plain torch."""

from genaccel.ops.entropy import pmf_to_cdf
from genaccel.ops.quantize import nearest_code

__all__ = ["nearest_code", "pmf_to_cdf"]
