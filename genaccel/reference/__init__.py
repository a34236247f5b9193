# SPDX-License-Identifier: Apache-2.0
"""The operators of ``genaccel.ops`` in plain torch: the specification. Nothing but tests imports it."""

from genaccel.reference.entropy import pmf_to_cdf
from genaccel.reference.quantize import nearest_code, nearest_code_backward

__all__ = ["nearest_code", "nearest_code_backward", "pmf_to_cdf"]
