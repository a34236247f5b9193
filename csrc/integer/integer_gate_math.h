// SPDX-License-Identifier: Apache-2.0
// The activation of a gate is a table of its 256 values, with the scales of both factors in it.
#pragma once

#include <cstdint>

#include "common/fixed_point.h"

namespace genaccel::integer {

constexpr int64_t kTableSize = 256;
constexpr int kMaxGateShift = 30;

GENACCEL_HOST_DEVICE int8_t gated(int32_t activation, int32_t value, int shift) {
  return static_cast<int8_t>(
      fixed_point::to_int8(fixed_point::rounded_shift(activation * value, shift)));
}

}  // namespace genaccel::integer
