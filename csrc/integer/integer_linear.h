// SPDX-License-Identifier: Apache-2.0
// Bridge: out[n, o] = requantised(sum_i x[n, i] weight[o, i] + bias[o]) with a multiplier per
// output and one shift. T is int8_t, int16_t or int32_t.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/stream.h"
#include "integer/integer_linear_math.h"

namespace genaccel::integer {

template <typename T>
struct Linear {
  const int8_t* x;            // [rows, inputs]
  const int8_t* weight;       // [outputs, inputs]
  const int32_t* bias;        // [outputs], or null
  const int32_t* multiplier;  // [outputs]
  T* out;                     // [rows, outputs]
  int64_t inputs;             // at most kMaxInputs
  int64_t outputs;
  int shift;  // kMinShift to kMaxShift
};

// Rows [begin, end).
template <typename T>
void integer_linear_cpu(const Linear<T>& problem, int64_t begin, int64_t end);

template <typename T>
Status integer_linear_cuda(const Linear<T>& problem, int64_t rows, Stream stream);

}  // namespace genaccel::integer
