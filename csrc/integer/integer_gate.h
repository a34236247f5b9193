// SPDX-License-Identifier: Apache-2.0
// Bridge: out[n, c] = (table[x[n, c] + 128] * x[n, channels + c]) / 2^shift, to the nearest,
// saturated.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "integer/fixed_point_shared.h"

namespace genaccel::integer {

// The activation of a gate is a table of its 256 values, with the scales of both factors in it.
constexpr int64_t kTableSize = 256;
constexpr int kMaxGateShift = 30;

GENACCEL_HOST_DEVICE int8_t gated(int32_t activation, int32_t value, int shift) {
  return static_cast<int8_t>(
      fixed_point::to_int8(fixed_point::rounded_shift(activation * value, shift)));
}

struct Gate {
  const int8_t* x;       // [rows, 2 * channels]: gates, values
  const int16_t* table;  // [256]
  int8_t* out;           // [rows, channels]
  int64_t channels;
  int shift;  // 1 to kMaxGateShift
};

// Rows [begin, end).
void integer_gate_cpu(const Gate& problem, int64_t begin, int64_t end);

Status integer_gate_cuda(const Gate& problem, int64_t rows, Stream stream);

}  // namespace genaccel::integer
