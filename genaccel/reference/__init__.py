# SPDX-License-Identifier: Apache-2.0
"""The operators of ``genaccel.ops`` in plain torch: the specification. Nothing but tests imports it."""

from genaccel.reference import decoding, entropy, forecast, frequency, integer, quantize, tokens
from genaccel.reference.decoding import *
from genaccel.reference.entropy import *
from genaccel.reference.forecast import *
from genaccel.reference.frequency import *
from genaccel.reference.integer import *
from genaccel.reference.quantize import *
from genaccel.reference.tokens import *

__all__: list[str] = []
__all__ += decoding.__all__
__all__ += entropy.__all__
__all__ += forecast.__all__
__all__ += frequency.__all__
__all__ += integer.__all__
__all__ += quantize.__all__
__all__ += tokens.__all__
