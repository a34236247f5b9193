// SPDX-License-Identifier: Apache-2.0
// Bridge: out[n, c] = (table[x[n, c] + 128] * x[n, channels + c]) / 2^shift, to the nearest,
// saturated.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "integer/integer_gate_math.h"

namespace genaccel::integer {

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
