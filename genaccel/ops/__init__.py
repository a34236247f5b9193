# SPDX-License-Identifier: Apache-2.0
"""Native operators, CPU and CUDA. ``genaccel.reference`` has the same names in plain torch."""

from genaccel.ops import decoding, entropy, forecast, frequency, integer, quantize, tokens
from genaccel.ops.decoding import *
from genaccel.ops.entropy import *
from genaccel.ops.forecast import *
from genaccel.ops.frequency import *
from genaccel.ops.integer import *
from genaccel.ops.quantize import *
from genaccel.ops.tokens import *

__all__: list[str] = []
__all__ += decoding.__all__
__all__ += entropy.__all__
__all__ += forecast.__all__
__all__ += frequency.__all__
__all__ += integer.__all__
__all__ += quantize.__all__
__all__ += tokens.__all__
