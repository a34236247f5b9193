// SPDX-License-Identifier: Apache-2.0
// A pair of int16 channels turned by an int16 cosine and sine of scale 32767, and halved: what 17
// bits more would hold is at most 2^15.
#pragma once

#include <cstdint>

#include "integer/fixed_point_shared.h"

namespace genaccel::integer {

constexpr uint32_t kUnitGain = 127;  // of a unit vector in int8

struct Pair {
  int32_t even;
  int32_t odd;
};

GENACCEL_HOST_DEVICE int32_t halved(uint32_t sum_of_products) {
  return static_cast<int32_t>(sum_of_products + 32768u) >> 16;
}

// Sums wrap around for an entry of -32768, which no cosine is.
GENACCEL_HOST_DEVICE Pair turned(int32_t even, int32_t odd, int32_t cosine, int32_t sine) {
  return {halved(static_cast<uint32_t>(even * cosine) - static_cast<uint32_t>(odd * sine)),
          halved(static_cast<uint32_t>(odd * cosine) + static_cast<uint32_t>(even * sine))};
}

}  // namespace genaccel::integer
